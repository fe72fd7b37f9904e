"""`BindReport`: the binding in force, as read from the kernel, and its degradations."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from affinity.degradation import Degradation, messages
from affinity.errors import BindError, UsageError
from affinity.handoff import Handoff
from affinity.kernel.mempolicy import MemoryMode
from affinity.kernel.protocol import Kernel
from affinity.kernel.refusals import is_of_masks
from affinity.launchers.launch import Launch
from affinity.policies.placement import Placement
from affinity.report.log import describe
from affinity.report.observed import Observed, page_nodes
from affinity.selection.fallback import Applied
from affinity.selection.rules import Selection
from affinity.strategies.strategy import Outcome


@attrs.frozen(repr=False)
class BindReport:
    """Result of `affinity.bind()`.

    strategy, reason: the one that acted, and why it was chosen. requested: the placement of the worker, None if there
    is none. observed: the state of the process after the bind. already_bound: the placement was in force before, and
    nothing was changed. degradations: what is not in force, each with errno and remedy. satisfied: the kernel shows
    what was requested. outcome: threads and pages moved. age: seconds from the start of the process to the end of the
    bind.
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
    _undo: Callable[[], Observed] = attrs.field(eq=False)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without `undo`, which is possible only in the process that bound."""
        *values, _ = attrs.astuple(self, recurse=False)
        return type(self), (*values, _undo_elsewhere)

    @property
    def unbound_threads(self) -> int:
        """Number of threads whose CPUs are not within the placement's."""
        if self.requested is None or self.requested.cpus is None:
            return 0
        return sum(not mask <= self.requested.cpus for mask in self.observed.threads.values())

    @property
    def local_share(self) -> float | None:
        """Share (0 to 1) of the process's own pages that are on its nodes; None if unknown."""
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
        """One line for a log: strategy, placement, GPUs, and what was moved."""
        if self.requested is None or (self.strategy == "noop" and not self.degradations):
            return f"CPUs and memory unchanged: {self.reason}"
        state = "already in force" if self.already_bound else "bound" if self.satisfied else "requested"
        moved = f"; {self.moved / 2**20:.1f} MiB moved" if self.moved else ""
        return f"{state} {describe(self.strategy, self.requested, self.launch)}{moved}"

    def undo(self) -> Observed:
        """Restore every thread's mask, the calling thread's memory policy, and the variables that the strategy set.

        Return the state after that. A variable that was changed since the bind is left as it is.
        Must be called by the thread that bound. Pages are not moved. Raise BindError if the kernel does not show the
        state before the bind.
        """
        return self._undo()

    def __repr__(self) -> str:
        return f"<BindReport: {self.summary}; {len(messages(self.degradations))} degradations>"

    def __str__(self) -> str:
        chosen = self.selection.strategy
        refused = f" ({chosen} was refused)" if self.degradations and chosen != self.strategy else ""
        lines = [f"strategy {self.strategy}{refused}: {self.selection.reason}"]
        if self.requested is not None:
            lines.append(f"requested: {self.requested.summary} ({self.requested.reason})")
        mask = self.observed.threads.get(self.observed.caller)
        lines.append(f"in force: CPUs {mask}, memory policy {self.observed.policy or 'unknown'}")
        if self.moved:
            lines.append(f"moved: {self.moved / 2**20:.1f} MiB touched before, in {self.outcome.seconds:.2f} s")
        if outside := self.unbound_threads:
            lines.append(f"unchanged: {outside} of {len(self.observed.threads)} threads may run on other CPUs")
        lines += [f"degraded: {message}" for message in messages(self.degradations)]
        lines += [f"note: {n}" for n in self.launch.notes]
        return "\n".join(lines)


def _undo_elsewhere() -> Observed:
    raise UsageError("this report was made in another process: call undo() there, in the thread that bound")


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
    """Return the report of a bind, from the state that the kernel shows.

    step: the result of `apply`, None if nothing was changed. If `required`, an incomplete binding is undone and
    BindError is raised.
    """
    observed = Observed.read(kernel)
    degradations = list(step.degradations) if step else []
    outcome = step.result if step and step.result else Outcome()
    degradations += [Degradation.of_outcome(step.strategy if step else "", error) for error in outcome.errors]
    degradations += observed.unreadable
    if problem:
        degradations.append(Degradation("place", "", problem, ""))
    if step and step.placement:
        if observed.conflicts_with(step.placement):
            degradations.append(observed.mismatch(step.strategy, step.placement))
        degradations += _other_threads_memory(step.placement, len(observed.threads) - 1)
    acted = step is not None or selection.strategy != "noop"
    incomplete = acted and (observed.threads_hidden or any(map(is_of_masks, outcome.errors)))
    satisfied = not problem and not incomplete and (requested is None or observed.matches(requested) or not acted)
    if required and not satisfied:
        try:
            undo()
        except BindError as refused:
            degradations.append(Degradation.of("restore the previous state", refused))
        raise BindError("required, but not in force: " + "; ".join(messages(degradations)))
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
    """Return a degradation if threads that ran before the bind do not have the memory policy.

    A thread can set only its own policy (set_mempolicy(2)). The others allocate on first touch, on the node of the CPUs
    that they are bound to, which for `preferred` on these nodes is the same.
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
            f"a thread can set only its own policy: {others} started before the bind allocate next to their CPUs",
            "bind before other threads start, or start the worker bound",
        )
    ]
