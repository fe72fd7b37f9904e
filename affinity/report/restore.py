"""Back to the state before: every thread's mask, the calling thread's memory policy, and the note of the bind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from affinity.degradation import Degradation
from affinity.errors import BindError, UsageError
from affinity.handoff import Handoff, matching_record, record
from affinity.host import Host
from affinity.kernel.protocol import Kernel
from affinity.report.observed import Observed
from affinity.report.report import BindReport


@attrs.frozen
class SavedState:
    """What the kernel showed, and whose doing it was."""

    observed: Observed
    record: Handoff | None
    reported: BindReport | None = None

    @classmethod
    def of(cls, kernel: Kernel) -> SavedState:
        ray = sys.modules.get("affinity.integrations.ray")
        return cls(Observed.read(kernel, pages=False), matching_record(kernel), ray.report() if ray else None)

    def restore(self, kernel: Kernel) -> Observed:
        """Put it back, and read back that it is. Pages stay where they are.

        Threads started since take the mask that the calling thread had. Raises UsageError from another thread
        than the one whose state this is, BindError where the kernel shows something else afterwards.
        """
        me = self.observed.caller
        if kernel.thread_id() != me:
            raise UsageError(f"thread {me} was bound, thread {kernel.thread_id()} cannot undo it: a memory policy "
                             "belongs to its thread; call it there")  # fmt: skip
        bound, mine, policy = kernel.get_affinity(), self.observed.threads[me], self.observed.policy
        refused: dict[str, None] = {}
        seen: set[int] = set()
        changed = True
        while changed:  # a thread not yet put back may start another meanwhile
            changed = False
            for tid in set(kernel.threads()) - seen:
                seen.add(tid)
                try:
                    mask = kernel.get_affinity(tid)
                    old = self.observed.threads.get(tid, mine if mask == bound else mask)
                    if mask != old:
                        kernel.set_affinity(tid, old)
                        changed = True
                except ProcessLookupError:
                    continue
                except OSError as error:  # the other threads and the policy can still go back
                    refused[str(Degradation.of("CPUs", error))] = None
        try:
            if policy is not None and kernel.get_mempolicy() != policy:
                kernel.set_mempolicy(policy)
        except OSError as error:
            refused[str(Degradation.of(f"memory policy {policy}", error))] = None
        made = record(kernel, None)
        if self.record is not None:  # what the bind found to be no longer allowed is not asked for again
            allowed = self.record.allowed & made.allowed if made is not None else self.record.allowed
            record(kernel, attrs.evolve(self.record, allowed=allowed))
        ray = sys.modules.get("affinity.integrations.ray")
        if ray and ray.report() is not self.reported:  # a cluster was told of what is undone
            ray.record(self.reported)
        now = Observed.read(kernel)
        if refused or now.threads[me] != mine or (policy is not None and now.policy != policy):
            why = "".join(f"; {told}" for told in refused)
            raise BindError(f"undo: CPUs {now.threads[me]} and memory policy {now.policy} are in force, expected "
                             f"CPUs {mine} and {policy} as before{why}")  # fmt: skip
        return now

    def restore_or_degrade(self, kernel: Kernel) -> tuple[Degradation, ...]:
        """Restore after a refused bind: what stands in the way is told beside the refusal, not in place of it."""
        try:
            self.restore(kernel)
        except BindError as refused:
            return (Degradation.of("put back", refused),)
        return ()


@contextmanager
def restored(*, host: Host | None = None) -> Iterator[None]:
    """After the block, this process is back in the state it had before it, verified.

    Every thread's CPU mask and the calling thread's memory policy; pages stay where they are, and a thread started
    within the block keeps the policy it inherited. Errors as `BindReport.undo`.
    """
    kernel = (host or Host.live()).kernel
    before = SavedState.of(kernel)
    try:
        yield
    finally:
        before.restore(kernel)
