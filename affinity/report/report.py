"""`BindReport`: what is in force now, read back from the kernel, and what is not."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from affinity.degradation import Degradation
from affinity.errors import BindError, UsageError
from affinity.handoff import Handoff
from affinity.kernel.mempolicy import MemoryMode
from affinity.kernel.protocol import Kernel
from affinity.launchers.launch import Launch
from affinity.policies.placement import Placement
from affinity.report.observed import Observed, page_nodes
from affinity.selection.fallback import Applied
from affinity.selection.rules import Selection
from affinity.strategies.strategy import Outcome


@attrs.frozen
class BindReport:
    """What `affinity.bind()` found and did.

    strategy, reason: which one acted and why it was chosen. requested: the placement; None if none was possible.
    observed: what the kernel shows now. already_bound: it was in force before, and nothing was done.
    degradations: what is not in force, each with errno and remedy. satisfied: the kernel shows what was requested.
    outcome: threads and pages moved. age: seconds from the start of the process to the end of the bind.
    """

    strategy: str
    reason: str
    launch: Launch
    selection: Selection
    requested: Placement | None
    observed: Observed
    already_bound: bool
    satisfied: bool
    degradations: tuple[Degradation, ...]
    outcome: Outcome
    age: float
    _undo: Callable[[], Observed] = attrs.field(repr=False, eq=False)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the report without its undo: in another process it can be read, and undo nothing."""
        *values, _ = attrs.astuple(self, recurse=False)
        return type(self), (*values, _undo_elsewhere)

    @property
    def unbound_threads(self) -> int:
        """Threads whose CPUs are not within the placement's."""
        if self.requested is None or self.requested.cpus is None:
            return 0
        return sum(not mask <= self.requested.cpus for mask in self.observed.threads.values())

    @property
    def local_share(self) -> float | None:
        """Share (0 to 1) of the process's own pages on its nodes; None if unknown."""
        return self.observed.local_share(self.requested) if self.requested else None

    @property
    def moved(self) -> int:
        """Bytes of its own pages that came to its nodes by the move, as far as the kernel shows them there."""
        before, after = self.outcome.resident_before, self.observed.resident
        if self.requested is None or before is None or after is None:
            return 0
        return max(sum(after.get(node, 0) - before.get(node, 0) for node in page_nodes(self.requested)), 0)

    @property
    def summary(self) -> str:
        """For a log: which strategy put which GPU's worker where."""
        if self.requested is None or (self.strategy == "noop" and not self.degradations):
            return f"CPUs and memory unchanged: {self.reason}"
        gpus = ", ".join(map(str, self.launch.gpus)) or f"node {self.requested.nodes}"
        done = "already in force" if self.already_bound else "bound" if self.satisfied else "requested"
        return f"{done} by strategy {self.strategy}: {self.requested.summary}, for {gpus}"

    def undo(self) -> Observed:
        """Put every thread's mask and the calling thread's memory policy back; return what is in force then.

        Must be called by the thread that bound. Pages stay where they are. Raises BindError if the kernel does not
        show the state before.
        """
        return self._undo()

    def __str__(self) -> str:
        lines = [f"strategy {self.strategy}: {self.reason}"]
        if self.requested is not None:
            lines.append(f"requested: {self.requested.summary} ({self.requested.reason})")
        mask = self.observed.threads.get(self.observed.caller)
        lines.append(f"in force: CPUs {mask}, memory policy {self.observed.policy or 'unknown'}")
        if self.moved:
            lines.append(f"moved: {self.moved / 2**20:.1f} MiB touched before, in {self.outcome.seconds:.2f} s")
        if outside := self.unbound_threads:
            lines.append(f"left alone: {outside} of {len(self.observed.threads)} threads may run elsewhere")
        lines += [f"degraded: {d}" for d in self.degradations]
        lines += [f"note: {n}" for n in self.launch.notes]
        return "\n".join(lines)


def _undo_elsewhere() -> Observed:
    raise UsageError("this report was made in another process: only there, in the thread that bound, can it be undone")


def verify(
    kernel: Kernel,
    *,
    launch: Launch,
    requested: Placement | None,
    problem: str,
    selection: Selection,
    step: Applied[Outcome] | None,
    required: bool,
    undo: Callable[[], Observed],
) -> BindReport:
    """Return the report, from what the kernel shows and nothing else.

    step: what was put in force, and what was refused before it; None if nothing was done. Under `required` an
    incomplete binding is undone and raised as BindError.
    """
    observed = Observed.read(kernel)
    degradations = list(step.degradations) if step else []
    outcome = step.result if step and step.result else Outcome()
    unmoved = [refused for refused in outcome.errors if refused.filename == "sched_setaffinity"]
    for refused in outcome.errors:
        what = "bind every thread" if refused in unmoved else "move pages touched before"
        degradations.append(Degradation.of(what, refused))
    degradations += observed.unreadable
    if problem:
        degradations.append(Degradation("place", "", problem, ""))
    if step and step.placement:
        if observed.conflicts_with(step.placement):
            degradations.append(observed.mismatch(step.strategy, step.placement))
        degradations += _other_threads_memory(step.placement, len(observed.threads) - 1)
    acted = step is not None or selection.strategy != "noop"
    incomplete = acted and (bool(unmoved) or observed.threads_hidden)
    satisfied = not problem and not incomplete and (requested is None or observed.matches(requested) or not acted)
    if required and not satisfied:
        try:
            undo()
        except BindError as refused:
            degradations.append(Degradation.of("put back", refused))
        raise BindError("required, but not in force: " + "; ".join(map(str, degradations)))
    received = Handoff.received(kernel) if step is None and acted else None
    return BindReport(
        strategy=step.strategy if step else received.strategy if received else selection.strategy,
        reason=selection.with_result(step.strategy, step.degradations).reason if step else selection.reason,
        launch=launch,
        selection=selection,
        requested=requested,
        observed=observed,
        already_bound=step is None and selection.strategy != "noop",
        satisfied=satisfied,
        degradations=tuple(degradations),
        outcome=outcome,
        age=kernel.age(),
        undo=undo,
    )


def _other_threads_memory(placement: Placement, others: int) -> list[Degradation]:
    """What the memory policy does not do for threads that ran before the bind: each can only set its own.

    They keep first touch on the CPUs they are now bound to, which is what `preferred` beside them asks for.
    """
    memory = placement.memory
    if others < 1 or memory is None or memory.mode in (MemoryMode.LOCAL, MemoryMode.DEFAULT):
        return []
    if memory.mode in (MemoryMode.PREFERRED, MemoryMode.PREFERRED_MANY) and memory.nodes <= placement.nodes:
        return []
    return [
        Degradation(
            f"memory {memory} for every thread",
            "",
            f"a thread can set no policy but its own: {others} that ran before the bind take pages beside their CPUs",
            "bind before other threads start, or have the worker started bound",
        )
    ]
