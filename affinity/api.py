"""The public calls, each the same five verbs: observe, place, select, bind, verify."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NoReturn

import attrs

from affinity.errors import CannotBind, PlacementError, UsageError
from affinity.handoff import VARIABLE, Note, forked, remember
from affinity.host import Host
from affinity.launchers.launch import Launch, LaunchMode
from affinity.observe import GpuRef, Seen, observe
from affinity.policies.policy import Placement, without_memory
from affinity.selection.fallback import Step, descend
from affinity.selection.rules import Case, Selection, select
from affinity.settings import Settings
from affinity.topology.cpuset import CpuSet

if TYPE_CHECKING:  # `affinity run` and `plan` bind nothing in this process: what only `bind` needs, it imports
    from affinity.report.report import BindReport, Observed
    from affinity.report.restore import State
    from affinity.strategies.strategy import AffinityStrategy, Outcome

_binding = threading.RLock()  # two threads that bind one process at once do so one after the other


def _forked() -> None:
    """A fork does not inherit a held lock."""
    global _binding
    _binding = threading.RLock()


os.register_at_fork(after_in_child=_forked)

_NOWHERE = Placement(None, None)


@attrs.frozen
class Plan:
    """What would be done for one worker, and why.

    placement: None where there is none, and `problem` says why. selection: the strategy, with each rule's verdict.
    """

    seen: Seen
    placement: Placement | None
    problem: str
    selection: Selection

    @property
    def launch(self) -> Launch:
        return self.seen.launch


def plan(
    *,
    gpu: GpuRef = None,
    node: int | None = None,
    launch_mode: LaunchMode | str | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
) -> Plan:
    """What `bind` or `spawning` would do, changing nothing.

    gpu: a reference (ordinal, UUID, PCI address, …) or several; default: this worker's own. node: in place of a
    GPU. launch_mode: default: detected. settings: default: from the environment. host: default: this machine.
    Raises UnknownGpu, SettingsError, PluginError, TopologyError; CannotBind under `required`.
    """
    return plan_for(observe(gpu=gpu, node=node, launch_mode=launch_mode, settings=settings, host=host))


def plan_each(
    *,
    gpu: GpuRef = "all",
    launch_mode: LaunchMode | str | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
) -> list[Plan]:
    """A plan for each of the GPUs, as for one worker a GPU; the machine is read once. Arguments as `plan`."""
    seen = observe(gpu=gpu, launch_mode=launch_mode, settings=settings, host=host)
    return [plan_for(attrs.evolve(seen, launch=attrs.evolve(seen.launch, gpus=(g,)))) for g in seen.launch.gpus]


def bind(
    *,
    gpu: GpuRef = None,
    node: int | None = None,
    launch_mode: LaunchMode | str | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
) -> BindReport:
    """Put this process where its GPU is. Call it in the worker, before it builds its scheduler.

    Arguments and errors as `plan`. Binding twice is the same as binding once. By default the best that can be
    had is put in force and the report says what was given up; under `AFFINITY_ENFORCE=required` (settings.required)
    anything less than what was asked for is undone and raises CannotBind.
    """
    from affinity.report.report import verify
    from affinity.report.restore import State

    with _binding:
        seen = observe(gpu=gpu, node=node, launch_mode=launch_mode, settings=settings, host=host)
        seen.host.refuse_foreign()
        if seen.launch.mode is LaunchMode.COMMAND:
            raise UsageError("launch mode command is for `affinity run`; a process that binds itself is inline")
        planned = plan_for(seen)
        before = State.of(seen.host.kernel)
        step = _put_in_force(planned, before)
        report = verify(
            seen.host.kernel,
            launch=seen.launch,
            requested=planned.placement,
            problem=planned.problem,
            selection=planned.selection,
            step=step,
            required=seen.settings.required,
            undo=lambda: before.restore(seen.host.kernel),
        )
        if seen.launch.mode is LaunchMode.RAY and "ray" in sys.modules:
            from affinity.integrations.ray import record

            record(report)
        return report


@contextmanager
def spawning(
    *,
    gpu: GpuRef = None,
    node: int | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
) -> Iterator[Plan]:
    """Around `Process.start()` of a `multiprocessing` worker: it is born where its GPU is.

        with affinity.spawning(gpu=3):
            process.start()

    For the calling thread's starts by the spawn method; other threads are not touched, and nothing is left
    behind. In the worker, `affinity.bind()` then knows its GPU and confirms what is in force. Arguments and errors
    as `plan`; UsageError at `start()` for a start method that cannot be bound this way. Gives the plan, its
    selection naming the strategy that was really entered.
    """
    from affinity.strategies.start import starting

    seen = observe(gpu=gpu, node=node, launch_mode=LaunchMode.SPAWN, settings=settings, host=host)
    seen.host.refuse_foreign()
    planned = plan_for(seen)
    with ExitStack() as stack:
        step = descend(
            lambda strategy, rung: stack.enter_context(strategy.spawning(rung, seen.host)),
            planned.placement or _NOWHERE,
            planned.selection,
            seen.plugins.strategies,
            required=seen.settings.required,
        )
        note = _note(seen, step.placement if step.strategy != "noop" else None)

        def tell(argv: list[str]) -> list[str]:  # a frozen program's arguments are its own, not the interpreter's
            return argv if getattr(sys, "frozen", False) else [argv[0], "-X", f"affinity={note}", *argv[1:]]

        stack.enter_context(starting(rewrite=tell, forked=lambda: forked(seen.host.kernel, note)))
        yield attrs.evolve(planned, selection=planned.selection.after(step.strategy, step.given_up))


def become(argv: Sequence[str], planned: Plan) -> NoReturn:
    """Become this command, bound as planned (launch mode `command`). Raises OSError where it cannot be executed."""
    seen = planned.seen
    seen.host.refuse_foreign()
    kernel = seen.host.kernel
    note = _note(seen, planned.placement)
    step = descend(
        lambda strategy, rung: strategy.command(argv, rung, seen.host),
        planned.placement or _NOWHERE,
        planned.selection,
        seen.plugins.strategies,
        required=seen.settings.required,
    )
    for given_up in step.given_up:
        print(f"affinity: given up: {given_up}", file=sys.stderr)
    environ = dict(kernel.environ)
    if step.strategy != "noop" and step.placement is not None and step.placement.cpus is not None:
        environ[VARIABLE] = str(Note(step.placement.cpus, note.original, str(step.placement.memory or "")))
    kernel.exec(step.result or argv, environ)


def plan_for(seen: Seen) -> Plan:
    """Place and select. A placement that is impossible is a plan to do nothing, or CannotBind where required."""
    placement, problem = None, ""
    try:
        placement = seen.plugins.policies.get(seen.settings.policy).place(seen.host, seen.launch, seen.settings)
        told = "; ".join(filter(None, (placement.reason, without_memory(placement, seen.host, seen.settings))))
        placement = attrs.evolve(placement, migrate=seen.settings.migrate, reason=told)
    except PlacementError as impossible:
        if seen.settings.required:
            raise
        problem = str(impossible)
    case = Case(seen.settings, seen.launch, seen.host, placement, problem)
    return Plan(seen, placement, problem, select(case, seen.plugins.strategies))


def _put_in_force(planned: Plan, before: State) -> Step[Outcome] | None:
    """Walk the ladder in this process; None where there is nothing to do. A refused binding leaves no trace."""
    seen, placement = planned.seen, planned.placement
    host, kernel = seen.host, seen.host.kernel
    if placement is None or planned.selection.strategy == "noop":
        return None
    if _already(before.observed, placement, host):
        if before.note is not None:  # born bound: its own children, which inherit the mask, learn what it was before
            remember(kernel, attrs.evolve(before.note, worker=""))
        return None
    if seen.settings.required and placement.memory is not None and before.observed.policy is None:
        why = "; ".join(map(str, before.observed.unread))
        raise CannotBind(f"required, but no memory policy could be verified or undone here: {why}")

    def attempt(strategy: AffinityStrategy, rung: Placement) -> Outcome:
        try:
            return strategy.bind(rung, host)
        except (OSError, CannotBind):
            before.put_back(kernel)  # the next attempt must find the threads as this one did
            raise

    try:
        step = descend(
            attempt,
            placement,
            planned.selection,
            seen.plugins.strategies,
            required=seen.settings.required,
        )
    except BaseException as refused:
        left = before.put_back(kernel)
        if left and isinstance(refused, CannotBind):
            raise CannotBind(f"{refused}; {left[0]}") from refused
        raise
    if step.placement is None:
        step = attrs.evolve(step, given_up=(*step.given_up, *before.put_back(kernel)))
    elif step.placement.cpus is not None:
        shown = kernel.get_affinity()
        lost = step.placement.cpus - shown if shown <= step.placement.cpus else CpuSet()  # to a cpuset since then
        remember(kernel, Note(shown, host.allowed_cpus - lost, str(step.placement.memory or "")))
    return step


def _already(now: Observed, placement: Placement, host: Host) -> bool:
    """The caller is there, and no thread still has all that is allowed, where that is more than was placed."""
    return now.shows(placement) and (
        placement.cpus in (None, host.allowed_cpus) or host.allowed_cpus not in now.threads.values()
    )


def _note(seen: Seen, placement: Placement | None) -> Note:
    """What a child is told: its mask, the mask that was allowed before, and which worker it is."""
    bound = placement.cpus if placement is not None and placement.cpus is not None else seen.host.kernel.get_affinity()
    memory = str(placement.memory or "") if placement is not None else ""
    return Note(bound, seen.host.allowed_cpus, memory, _worker(seen))


def _worker(seen: Seen) -> str:
    """The worker's GPUs in words that mean the same in the child: never a visible ordinal."""
    gpus = seen.launch.gpus
    if gpus and all(g.pci is not None for g in gpus):
        return ",".join(str(g.pci) for g in gpus)
    if gpus and "nodes" in seen.settings.decided:  # stand-ins, which the child finds in the same variable
        return ",".join(f"phys:{seen.launch.peers.index(g)}" for g in gpus)
    return f"node:{seen.launch.gpu_nodes}"


__all__ = ["Plan", "bind", "become", "plan", "plan_each", "spawning"]
