"""The public calls, each the same five verbs: observe, place, select, bind, verify."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NoReturn

import attrs

from affinity.errors import BindError, PlacementError, UsageError
from affinity.handoff import VARIABLE, Note, forked, remember
from affinity.host import Host
from affinity.launchers.launch import Launch, LaunchMode
from affinity.observation import Observation
from affinity.observe import GpuReference, observe
from affinity.plugins import Plugins
from affinity.policies.placement import Placement
from affinity.policies.policy import missing_memory_reason
from affinity.selection.fallback import Applied, apply
from affinity.selection.rules import Selection, select
from affinity.settings import Settings
from affinity.topology.cpuset import CpuSet

if TYPE_CHECKING:  # `affinity run` and `plan` bind nothing in this process: what only `bind` needs, it imports
    from affinity.report.observed import Observed
    from affinity.report.report import BindReport
    from affinity.report.restore import SavedState
    from affinity.strategies.strategy import AffinityStrategy, Outcome

_binding = threading.RLock()  # two threads that bind one process at once do so one after the other


def _forked() -> None:
    """A fork does not inherit a held lock."""
    global _binding
    _binding = threading.RLock()


os.register_at_fork(after_in_child=_forked)

_NO_PLACEMENT = Placement(None, None)


@attrs.frozen
class Plan:
    """What would be done for one worker, and why.

    placement: None where there is none, and `problem` says why. selection: the strategy, with each rule's verdict.
    """

    observation: Observation
    placement: Placement | None
    problem: str
    selection: Selection
    _plugins: Plugins = attrs.field(repr=False, eq=False)

    @property
    def launch(self) -> Launch:
        return self.observation.launch


def plan(
    *,
    gpu: GpuReference = None,
    node: int | None = None,
    launch_mode: LaunchMode | str | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
) -> Plan:
    """What `bind` or `spawning` would do, changing nothing.

    gpu: a reference (ordinal, UUID, PCI address, …) or several; default: this worker's own. node: in place of a
    GPU. launch_mode: default: detected. settings: default: from the environment. host: default: this machine.
    Raises UnknownGpuError, SettingsError, PluginError, TopologyError; BindError under `required`.
    """
    plugins = Plugins()
    return make_plan(
        observe(plugins, gpu=gpu, node=node, launch_mode=launch_mode, settings=settings, host=host), plugins
    )


def plan_each(
    *,
    gpu: GpuReference = "all",
    launch_mode: LaunchMode | str | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
) -> list[Plan]:
    """A plan for each of the GPUs, as for one worker a GPU; the machine is read once. Arguments as `plan`."""
    plugins = Plugins()
    observation = observe(plugins, gpu=gpu, launch_mode=launch_mode, settings=settings, host=host)
    return [
        make_plan(attrs.evolve(observation, launch=attrs.evolve(observation.launch, gpus=(g,))), plugins)
        for g in observation.launch.gpus
    ]


def bind(
    *,
    gpu: GpuReference = None,
    node: int | None = None,
    launch_mode: LaunchMode | str | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
) -> BindReport:
    """Put this process where its GPU is. Call it in the worker, before it builds its scheduler.

    Arguments and errors as `plan`. Binding twice is the same as binding once. By default the best that can be
    had is put in force and the report says what was given up; under `AFFINITY_ENFORCE=required` (settings.required)
    anything less than what was asked for is undone and raises BindError.
    """
    from affinity.report.report import verify
    from affinity.report.restore import SavedState

    with _binding:
        plugins = Plugins()
        observation = observe(plugins, gpu=gpu, node=node, launch_mode=launch_mode, settings=settings, host=host)
        observation.host.require_this_machine()
        if observation.launch.mode is LaunchMode.COMMAND:
            raise UsageError("launch mode command is for `affinity run`; a process that binds itself is inline")
        planned = make_plan(observation, plugins)
        before = SavedState.of(observation.host.kernel)
        step = _apply(planned, before)
        report = verify(
            observation.host.kernel,
            launch=observation.launch,
            requested=planned.placement,
            problem=planned.problem,
            selection=planned.selection,
            step=step,
            required=observation.settings.required,
            undo=lambda: before.restore(observation.host.kernel),
        )
        if observation.launch.mode is LaunchMode.RAY and "ray" in sys.modules:
            from affinity.integrations.ray import record

            record(report)
        return report


@contextmanager
def spawning(
    *,
    gpu: GpuReference = None,
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

    plugins = Plugins()
    observation = observe(plugins, gpu=gpu, node=node, launch_mode=LaunchMode.SPAWN, settings=settings, host=host)
    observation.host.require_this_machine()
    planned = make_plan(observation, plugins)
    with ExitStack() as stack:
        step = apply(
            lambda strategy, rung: stack.enter_context(strategy.spawning(rung, observation.host)),
            planned.placement or _NO_PLACEMENT,
            planned.selection,
            planned._plugins.strategies,
            required=observation.settings.required,
        )
        note = _note(observation, step.placement if step.strategy != "noop" else None)

        def tell(argv: list[str]) -> list[str]:  # a frozen program's arguments are its own, not the interpreter's
            return argv if getattr(sys, "frozen", False) else [argv[0], "-X", f"affinity={note}", *argv[1:]]

        stack.enter_context(starting(rewrite=tell, forked=lambda: forked(observation.host.kernel, note)))
        yield attrs.evolve(planned, selection=planned.selection.with_result(step.strategy, step.degradations))


def exec_command(argv: Sequence[str], planned: Plan) -> NoReturn:
    """Become this command, bound as planned (launch mode `command`). Raises OSError where it cannot be executed."""
    observation = planned.observation
    observation.host.require_this_machine()
    kernel = observation.host.kernel
    note = _note(observation, planned.placement)
    step = apply(
        lambda strategy, rung: strategy.command(argv, rung, observation.host),
        planned.placement or _NO_PLACEMENT,
        planned.selection,
        planned._plugins.strategies,
        required=observation.settings.required,
    )
    for degradations in step.degradations:
        print(f"affinity: given up: {degradations}", file=sys.stderr)
    environ = dict(kernel.environ)
    if step.strategy != "noop" and step.placement is not None and step.placement.cpus is not None:
        environ[VARIABLE] = str(Note(step.placement.cpus, note.original, str(step.placement.memory or "")))
    kernel.exec(step.result or argv, environ)


def make_plan(observation: Observation, plugins: Plugins) -> Plan:
    """Place and select. A placement that is impossible is a plan to do nothing, or BindError where required."""
    placement, problem = None, ""
    try:
        policy = plugins.policies.get(observation.settings.policy)
        observation.settings.check(policy.options)
        placement = policy.place(observation)
        told = "; ".join(filter(None, (placement.reason, missing_memory_reason(placement, observation))))
        placement = attrs.evolve(placement, migrate=observation.settings.migrate, reason=told)
    except PlacementError as impossible:
        if observation.settings.required:
            raise
        problem = str(impossible)
    return Plan(observation, placement, problem, select(observation, placement, plugins.strategies, problem), plugins)


def _apply(planned: Plan, before: SavedState) -> Applied[Outcome] | None:
    """Walk the ladder in this process; None where there is nothing to do. A refused binding leaves no trace."""
    observation, placement = planned.observation, planned.placement
    host, kernel = observation.host, observation.host.kernel
    if placement is None or planned.selection.strategy == "noop":
        return None
    if _in_force(before.observed, placement, host):
        if before.note is not None:  # born bound: its own children, which inherit the mask, learn what it was before
            remember(kernel, attrs.evolve(before.note, worker=""))
        return None
    if observation.settings.required and placement.memory is not None and before.observed.policy is None:
        why = "; ".join(map(str, before.observed.unreadable))
        raise BindError(f"required, but no memory policy could be verified or undone here: {why}")

    def attempt(strategy: AffinityStrategy, rung: Placement) -> Outcome:
        try:
            return strategy.bind(rung, observation)
        except (OSError, BindError):
            before.restore_or_degrade(kernel)  # the next attempt must find the threads as this one did
            raise

    try:
        step = apply(
            attempt,
            placement,
            planned.selection,
            planned._plugins.strategies,
            required=observation.settings.required,
        )
    except BaseException as refused:
        left = before.restore_or_degrade(kernel)
        if left and isinstance(refused, BindError):
            raise BindError(f"{refused}; {left[0]}") from refused
        raise
    if step.placement is None:
        step = attrs.evolve(step, degradations=(*step.degradations, *before.restore_or_degrade(kernel)))
    elif step.placement.cpus is not None:
        shown = kernel.get_affinity()
        lost = step.placement.cpus - shown if shown <= step.placement.cpus else CpuSet()  # to a cpuset since then
        remember(kernel, Note(shown, host.allowed_cpus - lost, str(step.placement.memory or "")))
    return step


def _in_force(now: Observed, placement: Placement, host: Host) -> bool:
    """The caller is there, and no thread still has all that is allowed, where that is more than was placed."""
    return now.matches(placement) and (
        placement.cpus in (None, host.allowed_cpus) or host.allowed_cpus not in now.threads.values()
    )


def _note(observation: Observation, placement: Placement | None) -> Note:
    """What a child is told: its mask, the mask that was allowed before, and which worker it is."""
    bound = (
        placement.cpus
        if placement is not None and placement.cpus is not None
        else observation.host.kernel.get_affinity()
    )
    memory = str(placement.memory or "") if placement is not None else ""
    return Note(bound, observation.host.allowed_cpus, memory, _portable_references(observation))


def _portable_references(observation: Observation) -> str:
    """The worker's GPUs in words that mean the same in the child: never a visible ordinal."""
    gpus = observation.launch.gpus
    if gpus and all(g.pci is not None for g in gpus):
        return ",".join(str(g.pci) for g in gpus)
    if gpus and "nodes" in observation.settings.decided_by:  # stand-ins, which the child finds in the same variable
        return ",".join(f"phys:{observation.launch.machine_gpus.index(g)}" for g in gpus)
    return f"node:{observation.launch.gpu_nodes}"


__all__ = ["Plan", "bind", "exec_command", "plan", "plan_each", "spawning"]
