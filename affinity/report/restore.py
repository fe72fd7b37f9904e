"""The report in force in each process, and the way back to the state before a bind.

That state is every thread's CPU mask, the calling thread's memory policy, the variables that a strategy set, and the
record of the bind.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import attrs

from affinity.degradation import Degradation
from affinity.errors import BindError, UsageError
from affinity.handoff import VARIABLE, Handoff, matching_record, record
from affinity.host import Host, this_process
from affinity.kernel.protocol import Kernel, Process
from affinity.report.observed import Observed
from affinity.report.report import BindReport
from affinity.strategies import process as strategies_process

if TYPE_CHECKING:
    from affinity.launchers.launcher import Launcher


class InForce(NamedTuple):
    """The report in force in the process `pid`, and the launcher of that process."""

    pid: int
    report: BindReport
    launcher: Launcher | None


_in_force: weakref.WeakKeyDictionary[Process, InForce] = weakref.WeakKeyDictionary()


def _entry(process: Process) -> InForce | None:
    """Return the report in force in a process, not that of the process that it was forked from."""
    entry = _in_force.get(process)
    return entry if entry is not None and entry.pid == process.pid else None


def current_report(*, host: Host | None = None) -> BindReport | None:
    """Return the report of the last `affinity.bind()` of this process, None if there is none or it was undone."""
    entry = _entry(host.kernel if host is not None else this_process())
    return entry.report if entry is not None else None


def put_in_force(kernel: Kernel, report: BindReport | None, launcher: Launcher | None) -> None:
    """Record the report that is in force now, None if nothing is bound any more, and notify the launcher.

    An error of the launcher is a warning: the process is bound or given back all the same.
    """
    before = _entry(kernel)
    if report is None:
        _in_force.pop(kernel, None)
    else:
        _in_force[kernel] = InForce(kernel.pid, report, launcher)
    launcher = launcher or (before.launcher if before is not None else None)
    if launcher is None:
        return
    try:
        launcher.notify(report)
    except Exception as error:  # a plugin may raise anything
        bound = report or (before.report if before is not None else None)
        name = (bound.launch.launcher if bound is not None else "") or type(launcher).__name__
        what = f"launcher {name} was not notified of this {'undo' if report is None else 'bind'}"
        logging.getLogger("affinity.report").warning("affinity: %s: %s: %s", what, type(error).__name__, error)


@attrs.frozen
class SavedState:
    """What the kernel showed, what had set it, the variables, and the report that was in force."""

    observed: Observed
    record: Handoff | None
    environ: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    in_force: InForce | None = None

    @classmethod
    def of(cls, kernel: Kernel) -> SavedState:
        """Read the state of this process while no thread of it has the mask of a worker that it starts."""
        with strategies_process.binding_lock:
            observed = Observed.read(kernel, pages=False)
            return cls(observed, matching_record(kernel), dict(kernel.environ), _entry(kernel))

    def restore(self, kernel: Kernel, *, pages: bool = True, left: Mapping[str, str] | None = None) -> Observed:
        """Restore the masks, the memory policy, the record and the report, and read them back. Pages are not moved.

        pages: whether to read where pages lie. left: the variables as the strategy left them; those that it changed are
        restored too, unless they were changed since. Threads started since take the mask that the process had. Raises
        UsageError in another thread than the one whose state this is, BindError if the kernel shows another state.
        """
        me = self.observed.caller
        if kernel.thread_id() != me:
            raise UsageError(f"thread {me} was bound, thread {kernel.thread_id()} cannot undo it: a memory policy "
                             "belongs to its thread; call it there")  # fmt: skip
        with strategies_process.binding_lock:
            if left is not None:
                self._restore_environ(kernel, left)
            return self._restore(kernel, pages=pages)

    def _restore_environ(self, kernel: Kernel, left: Mapping[str, str]) -> None:
        now = kernel.environ
        for name in (self.environ.keys() | left.keys()) - {VARIABLE}:  # the record has its own way back
            before = self.environ.get(name)
            if before == left.get(name) or now.get(name) != left.get(name):
                continue
            if before is None:
                del now[name]
            else:
                now[name] = before

    def _restore(self, kernel: Kernel, *, pages: bool) -> Observed:
        me = self.observed.caller
        bound, mine, policy = kernel.get_affinity(), self.observed.threads[me], self.observed.policy
        main = self.observed.threads.get(kernel.pid, mine)  # the process's: the calling thread may be a pinned one
        _, errors = strategies_process.change_masks(
            kernel, lambda tid, mask: self.observed.threads.get(tid, main if mask == bound else mask)
        )
        refused = dict.fromkeys(str(Degradation.of("CPUs", error)) for error in errors)
        try:
            if policy is not None and kernel.get_mempolicy() != policy:
                kernel.set_mempolicy(policy)
        except OSError as error:
            refused[str(Degradation.of(f"memory policy {policy}", error))] = None
        made = record(kernel, None)
        if self.record is not None:  # what the bind found to be no longer allowed is not asked for again
            allowed = self.record.allowed & made.allowed if made is not None else self.record.allowed
            record(kernel, attrs.evolve(self.record, allowed=allowed))
        if _entry(kernel) is not self.in_force:
            put_in_force(kernel, *(self.in_force[1:] if self.in_force is not None else (None, None)))
        now = Observed.read(kernel, pages=pages)
        if refused or now.threads[me] != mine or (policy is not None and now.policy != policy):
            why = "".join(f"; {reason}" for reason in refused)
            raise BindError(f"undo: CPUs {now.threads[me]} and memory policy {now.policy} are in force, expected "
                             f"CPUs {mine} and {policy} as before{why}")  # fmt: skip
        return now

    def restore_or_degrade(self, kernel: Kernel) -> tuple[Degradation, ...]:
        """Restore after a refused bind. Errors while restoring are appended to the original error."""
        try:
            self.restore(kernel, pages=False, left=dict(kernel.environ))
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
        before.restore(kernel, pages=False)
