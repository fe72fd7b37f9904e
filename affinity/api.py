"""The public calls, each the same five verbs: observe, place, select, bind, verify."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from affinity.degradation import Degradation, messages
from affinity.errors import BindError, PlacementError, UsageError
from affinity.handoff import VARIABLE, Handoff, inherited_mask_note, record, set_by_affinity
from affinity.host import Host
from affinity.kernel.mempolicy import MemoryPolicy
from affinity.launchers.launch import Launch, LaunchMode
from affinity.observation import Observation
from affinity.observe import GpuReference, gpu_variables, observe
from affinity.plugins import Plugins
from affinity.policies.placement import Placement
from affinity.policies.policy import missing_memory_reason
from affinity.report.log import describe, log_degradations, log_report, log_start, log_warnings
from affinity.selection.fallback import Applied, apply
from affinity.selection.rules import Selection, select
from affinity.settings import Settings
from affinity.strategies.strategy import WorkerStart
from affinity.topology.cpuset import CpuSet, NodeSet

if TYPE_CHECKING:  # `affinity run` and `plan` do not bind this process: `bind` imports what it needs alone
    from multiprocessing.context import BaseContext

    from affinity.report.observed import Observed
    from affinity.report.report import BindReport
    from affinity.report.restore import SavedState
    from affinity.strategies.start import PreparedStart
    from affinity.strategies.strategy import AffinityStrategy, Outcome

_NO_PLACEMENT = Placement(None, None)


@attrs.frozen(repr=False)
class Plan:
    """What `bind` or `spawning` would do for one worker, with reasons.

    placement: None if there is none, and `problem` is the reason. selection: the strategy, with each rule's verdict.
    """

    observation: Observation
    placement: Placement | None
    problem: str
    selection: Selection
    _plugins: Plugins = attrs.field(eq=False)

    @property
    def launch(self) -> Launch:
        return self.observation.launch

    @property
    def summary(self) -> str:
        """One line: strategy, placement, GPUs."""
        if self.placement is None or self.selection.strategy == "noop":
            return f"not bound: {self.problem or self.selection.reason}"
        return f"bound {describe(self.selection.strategy, self.placement, self.launch)}"

    def __repr__(self) -> str:
        return f"<Plan: {self.summary}>"

    def __str__(self) -> str:
        lines = [f"strategy {self.selection.strategy}: {self.selection.reason}"]
        if self.placement is not None:
            lines.append(f"placement: {self.placement.summary} ({self.placement.reason})")
        elif self.problem != self.selection.reason:
            lines.append(f"no placement: {self.problem}")
        for gpu in self.launch.gpus:
            lines.append(f"GPU {gpu}: node {'unknown' if gpu.node is None else gpu.node} ({gpu.node_reason})")
        lines += [f"note: {note}" for note in self.launch.notes]
        return "\n".join(lines)


def plan(
    *,
    gpu: GpuReference = None,
    node: int | None = None,
    launch_mode: LaunchMode | str | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
) -> Plan:
    """Return what `bind` or `spawning` would do, without changing anything.

    >>> import affinity
    >>> machine = affinity.Host.synthetic("pack:2 numa:1 core:4 gpu:1")
    >>> str(affinity.plan(gpu=1, host=machine).placement.cpus)
    '4-7'

    gpu: a reference (ordinal, UUID, PCI address, …) or several; default: this worker's own. node: a node instead of a
    GPU. launch_mode: default: detected. settings: default: from the environment. host: default: this machine.
    Raise UnknownGpuError, SettingsError, PluginError or TopologyError; BindError under `required`.
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
    """Return a plan for each GPU, for one worker per GPU; the machine is read once. Arguments as for `plan`."""
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
    """Bind this process to the CPUs and memory next to its GPU. Call it in the worker, before it builds its scheduler.

    Arguments and errors as for `plan`. Binding twice is the same as binding once. By default the strongest placement
    that the system accepts is put in force, and the report lists the degradations. Under `AFFINITY_ENFORCE=required`
    (settings.required) an incomplete binding is undone and BindError is raised.
    """
    from affinity.report.report import verify
    from affinity.report.restore import SavedState, put_in_force
    from affinity.strategies import process

    with process.binding_lock:
        plugins = Plugins()
        observation = observe(
            plugins, gpu=gpu, node=node, launch_mode=launch_mode, settings=settings, host=host, running=True
        )
        observation.host.require_this_machine()
        if observation.launch.mode in (LaunchMode.COMMAND, LaunchMode.ATTACH):
            raise UsageError(
                f"launch mode {observation.launch.mode.value} is for `affinity run` (command) or affinity.attach() "
                "(attach): use inline for a process that binds itself"
            )
        planned = make_plan(observation, plugins)
        before = SavedState.of(observation.host.kernel)
        step = _apply(planned, before)
        undo = functools.partial(before.restore, observation.host.kernel, left=dict(observation.host.kernel.environ))
        report = verify(
            observation.host.kernel,
            launch=observation.launch,
            requested=planned.placement,
            problem=planned.problem,
            selection=planned.selection,
            step=step,
            required=observation.settings.required,
            undo=undo,
        )
        log_report(report)
        log_warnings(observation.warnings)
        put_in_force(observation.host.kernel, report, observation.launcher)
        return report


@contextmanager
def spawning(
    *,
    gpu: GpuReference = None,
    node: int | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
) -> Iterator[Plan]:
    """Start the `multiprocessing` workers of a block next to their GPU, bound from their first instruction.

        with affinity.spawning(gpu=3):
            process.start()

    The block applies to starts in this context (PEP 567: this thread, this asyncio task), and to later workers of a
    pool whose first workers are started in the block. In the worker, `affinity.bind()` finds its GPU and confirms what
    is in force. A worker that this thread does not start itself (start methods forkserver, Python 3.14's default, and
    loky) calls `bind()` before its target runs.
    Arguments and errors as for `plan`. Yield the plan, whose selection names the strategy for start method spawn.
    """
    planned, prepare = _prepare_starts(gpu=gpu, node=node, settings=settings, host=host)
    from affinity.strategies.start import open_block

    with open_block(prepare):
        yield planned


def get_context(
    method: str | None = None,
    *,
    gpu: GpuReference = None,
    node: int | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
) -> BaseContext:
    """Return a `multiprocessing` context that starts every process bound next to its GPU.

        context = affinity.get_context("spawn", gpu=3)
        pool = ProcessPoolExecutor(mp_context=context)

    This applies to `context.Process`, `context.Pool`, an executor, and the workers that these start later from their
    own threads. method: as for `multiprocessing.get_context`. Other arguments and errors as for `plan`; ValueError for
    an unknown method; BindError under `required` if its workers cannot be bound.
    """
    import multiprocessing

    from affinity.strategies.context import BoundContext

    method = multiprocessing.get_context(method).get_start_method()
    _, prepare = _prepare_starts(gpu=gpu, node=node, settings=settings, host=host, method=method)
    return BoundContext(method, prepare)


def exec_command(argv: Sequence[str], planned: Plan) -> NoReturn:
    """Replace this process with `argv`, bound as planned (launch mode `command`). Raise OSError if that fails."""
    observation = planned.observation
    observation.host.require_this_machine()
    kernel = observation.host.kernel
    step = _apply_start(planned)
    log_degradations(step.degradations)
    log_warnings(observation.warnings)
    start = step.result or WorkerStart()
    environ = dict(kernel.environ)
    if step.strategy != "noop":
        environ[VARIABLE] = str(attrs.evolve(_handoff(observation, step), by=kernel.identity()))
    with start.around():
        kernel.exec([*start.prefix, *argv], environ)


def _prepare_starts(
    *,
    gpu: GpuReference,
    node: int | None,
    settings: Settings | None,
    host: Host | None,
    method: str = "spawn",
) -> tuple[Plan, Callable[[str], PreparedStart]]:
    """Return the plan of a worker, and a function that prepares its start by a method, once, when first called."""
    plugins = Plugins()
    observation = observe(plugins, gpu=gpu, node=node, launch_mode=LaunchMode.SPAWN, settings=settings, host=host)
    observation.host.require_this_machine()
    from affinity.strategies.start import PreparedStart  # after `observe`, whose error has a remedy if no file opens

    planned = make_plan(_started_by(observation, method), plugins)
    step = _apply_start(planned)  # an error is raised before anything is started

    @functools.cache
    def prepare(other: str) -> PreparedStart:
        of_method = planned if other == method else _with_method(planned, other)
        made = step if other == method else _apply_start(of_method)
        log_degradations(made.degradations)
        log_warnings(observation.warnings)
        kernel = observation.host.kernel
        settings = observation.settings.differences(kernel.environ)
        passed = attrs.evolve(_handoff(observation, made), by=kernel.identity(), settings=settings)
        if made.strategy == "noop" or made.placement is None:
            summary = f"unbound: {'; '.join(messages(made.degradations)) or of_method.selection.reason}"
        else:
            state = "that binds itself" if made.result is not None and made.result.binds_itself else "bound"
            summary = f"{state} {describe(made.strategy, made.placement, observation.launch)}"
        return PreparedStart(
            made.result or WorkerStart(),
            str(passed),
            _bind_and_run,
            functools.partial(log_start, summary),
            simulated=not kernel.is_this_process,
        )

    selection = planned.selection.with_result(step.strategy, step.degradations)
    return attrs.evolve(planned, selection=selection), prepare


def _bind_and_run(run: Callable[[], None]) -> None:
    bind()
    run()


def _started_by(observation: Observation, method: str) -> Observation:
    return attrs.evolve(observation, launch=attrs.evolve(observation.launch, start_method=method))


def _with_method(planned: Plan, method: str) -> Plan:
    """Return the plan for a worker started by another method: the same placement, by the strategy that serves it."""
    observation = _started_by(planned.observation, method)
    selection = select(observation, planned.placement, planned._plugins.strategies, planned.problem)
    return attrs.evolve(planned, observation=observation, selection=selection)


def _apply_start(planned: Plan) -> Applied[WorkerStart]:
    """Prepare the start of a worker: try each weaker placement with the chosen strategy and its fallbacks."""
    selection, launch = planned.selection, planned.launch
    if selection.strategy == "noop" and selection.skipped:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in selection.skipped)
        remedy = "call affinity.bind() in the worker, or start it through affinity.get_context('spawn', …)"
        return Applied("noop", None, None, (Degradation(f"start by {launch.start_method}", "", reasons, remedy),))
    return apply(
        lambda strategy, tried: strategy.start(tried, planned.observation),
        planned.placement or _NO_PLACEMENT,
        selection,
        planned._plugins.strategies,
        required=planned.observation.settings.required,
    )


def make_plan(observation: Observation, plugins: Plugins) -> Plan:
    """Place and select. If no placement is possible, return a plan without one, or raise BindError if required."""
    placement, problem = None, ""
    try:
        policy = plugins.policies.get(observation.settings.policy)
        observation.settings.check(policy.options)
        placement = policy.place(observation)
        reason = "; ".join(filter(None, (placement.reason, missing_memory_reason(placement, observation))))
        placement = attrs.evolve(placement, migrate=observation.settings.migrate, reason=reason)
        if placement.memory is None and placement.cpus is not None and _holds_our_mempolicy(observation.host):
            placement = attrs.evolve(placement, memory=MemoryPolicy())
    except PlacementError as impossible:
        note = "" if observation.host.is_foreign else inherited_mask_note(observation.host.kernel)
        problem = "; ".join(filter(None, (str(impossible), note)))
        if observation.settings.required:
            raise PlacementError(problem) from impossible
    return Plan(observation, placement, problem, select(observation, placement, plugins.strategies, problem), plugins)


def _holds_our_mempolicy(host: Host) -> bool:
    """Return whether an earlier bind set the memory policy, so that unchanged memory means to reset the policy."""
    if host.is_foreign:
        return False
    try:
        policy = host.kernel.get_mempolicy()
    except OSError:
        return False
    return policy != MemoryPolicy() and set_by_affinity(policy, host.kernel)


def _apply(planned: Plan, before: SavedState) -> Applied[Outcome] | None:
    """Try each weaker placement in this process; return None if nothing is to be changed.

    If all are refused, or on an error, the state before is restored.
    """
    observation, placement = planned.observation, planned.placement
    host, kernel = observation.host, observation.host.kernel
    if placement is None or planned.selection.strategy == "noop":
        return None
    if _in_force(before.observed, placement, host):
        if before.record is not None:  # started bound: its own workers inherit the mask and need the one before it
            gpus, nodes = _own_gpus(observation)
            given = gpu_variables(observation.launch, kernel.environ)
            record(kernel, attrs.evolve(before.record, gpus=gpus, nodes=nodes, given=given))
        return None
    if observation.settings.required and placement.memory is not None and before.observed.policy is None:
        errors = "; ".join(map(str, before.observed.unreadable))
        raise BindError(f"required, but no memory policy could be verified or undone here: {errors}")

    def attempt(strategy: AffinityStrategy, tried: Placement) -> Outcome:
        try:
            return strategy.bind(tried, observation)
        except (OSError, BindError):
            before.restore_or_degrade(kernel)  # each attempt starts from the same state
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
        not_restored = before.restore_or_degrade(kernel)
        if not_restored and isinstance(refused, BindError):
            raise BindError(f"{refused}; {not_restored[0]}") from refused
        raise
    if step.placement is None:
        step = attrs.evolve(step, degradations=(*step.degradations, *before.restore_or_degrade(kernel)))
    elif step.strategy != "noop":
        shown, placed = kernel.get_affinity(), step.placement.cpus
        lost = placed - shown if placed is not None and shown <= placed else CpuSet()  # cpuset narrowed since then
        handoff = _handoff(observation, step)
        record(kernel, attrs.evolve(handoff, cpus=shown, allowed=handoff.allowed - lost))
    return step


def _in_force(now: Observed, placement: Placement, host: Host) -> bool:
    """Return whether the caller has the placement, and no thread still has the wider mask of all allowed CPUs."""
    return now.matches(placement) and (
        placement.cpus in (None, host.allowed_cpus) or host.allowed_cpus not in now.threads.values()
    )


def _handoff(observation: Observation, step: Applied[Any]) -> Handoff:
    """Return the handoff to a worker, or the record of a bind: placement in force, mask before it, GPUs or nodes."""
    kernel = observation.host.kernel
    placement = step.placement if step.strategy != "noop" and step.placement is not None else _NO_PLACEMENT
    memory = placement.memory if placement.memory != MemoryPolicy() else None
    gpus, nodes = _own_gpus(observation)
    return Handoff(
        cpus=placement.cpus if placement.cpus is not None else kernel.get_affinity(),
        allowed=observation.host.allowed_cpus,
        memory=str(memory or ""),
        gpus=gpus,
        nodes=nodes,
        strategy=step.strategy,
        given=gpu_variables(observation.launch, kernel.environ),
    )


def _own_gpus(observation: Observation) -> tuple[tuple[str, ...], NodeSet | None]:
    """Return the worker's GPUs as every process can refer to them, never by visible ordinal; else its nodes."""
    gpus, machine = observation.launch.gpus, observation.launch.machine_gpus
    if gpus and all(g.pci is not None for g in gpus):
        return tuple(str(g.pci) for g in gpus), None
    if gpus and observation.settings.nodes is not None and all(g in machine for g in gpus):
        return tuple(f"phys:{machine.index(g)}" for g in gpus), None  # placeholders, which the setting gives the worker
    return (), observation.launch.gpu_nodes


__all__ = ["Plan", "bind", "exec_command", "get_context", "plan", "plan_each", "spawning"]
