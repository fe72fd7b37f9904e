"""The public calls, each of which is the same five verbs: observe, place, select, bind, verify."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import attrs

from affinity.errors import CannotBind, PlacementError
from affinity.gpus import Inventory, inventory, resolve
from affinity.host.cpuset import CpuSet, NodeSet
from affinity.host.devices import DeviceProvider, Gpu
from affinity.host.host import Host
from affinity.host.kernel import MemoryPolicy
from affinity.launch import Launch, LaunchMode
from affinity.origin import Before, Note, forget, ours, recall, remember, spawn_note
from affinity.policy import Placement, PlacementPolicy
from affinity.registry import Registry
from affinity.report import BindReport, Degradation, Observed
from affinity.selector import Case, Selection, select
from affinity.settings import Settings
from affinity.strategy import AffinityStrategy, Outcome

#: What a caller may say a GPU is: a reference (see affinity.gpus.resolve), or several.
GpuRef = str | int | Sequence[str | int] | None

T = TypeVar("T")

_binding = threading.RLock()  # two threads that bind one process at once do so one after the other


@attrs.frozen
class Plan:
    """What would be done for one worker, and why. placement: None where there is none (`problem` says why)."""

    launch: Launch
    placement: Placement | None
    problem: str
    selection: Selection


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
    host, launch, settings = observe(gpu, node, launch_mode, settings, host)
    return _plan(host, launch, settings)


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
    with _binding:
        host, launch, settings = observe(gpu, node, launch_mode, settings, host)
        planned = _plan(host, launch, settings)
        return _bind_here(planned, host, settings)


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
    as `plan`; UsageError at `start()` for a start method that cannot be bound this way.
    """
    from affinity.spawn import starting

    host, launch, settings = observe(gpu, node, LaunchMode.SPAWN, settings, host)
    planned = _plan(host, launch, settings)
    with _entered(planned, host, settings) as (chosen, placement):
        note = _note_for_child(host, launch, placement)
        options = lambda argv: [argv[0], "-X", f"affinity={note}", *argv[1:]]  # noqa: E731
        with starting(rewrite=options, methods=frozenset({"spawn", "fork", "forkserver"})):
            yield attrs.evolve(planned, selection=chosen)


def become(argv: Sequence[str], planned: Plan, host: Host, settings: Settings) -> NoReturn:
    """Become this command, bound as planned (launch mode `command`). Raises OSError where it cannot be executed."""
    placement, before = planned.placement or Placement(None, None), host.kernel.get_affinity()
    attempt = _Attempts(planned, settings)
    command, used = attempt.first(lambda s, rung: s.command(argv, rung, host), placement, default=argv)
    environ = dict(host.kernel.environ)
    if used is not None and used.cpus is not None:
        environ["AFFINITY_BOUND"] = str(Note(used.cpus, host.allowed_cpus | before))
    for given_up in attempt.degradations:
        import sys

        print(f"affinity: given up: {given_up}", file=sys.stderr)
    host.kernel.exec(command, environ)


# ---------------------------------------------------------------- observe


def observe(
    gpu: GpuRef,
    node: int | None,
    launch_mode: LaunchMode | str | None,
    settings: Settings | None,
    host: Host | None,
) -> tuple[Host, Launch, Settings]:
    """The machine, this worker, the operator's flags."""
    host = host or Host.live()
    environ = {} if host.foreign else host.kernel.environ
    settings = settings or Settings.from_environ(environ)
    note = None if host.foreign else spawn_note(host.kernel)
    launch = Launch.detect(environ, spawned=note is not None or (not host.foreign and _is_mp_child(host)))
    if launch_mode is not None:
        mode = launch_mode if isinstance(launch_mode, LaunchMode) else LaunchMode.parse(launch_mode)
        if mode is not launch.mode:
            launch = attrs.evolve(launch, mode=mode, why="asked for by the caller")
    if node is not None:
        return host, attrs.evolve(launch, nodes=NodeSet([node])), settings
    found = inventory(host, settings, environ, providers())
    mine, why = _own_gpus(gpu, launch, found, note)
    notes = (*found.notes, *([why] if why else ()))
    return host, attrs.evolve(launch, gpus=mine, peers=found.devices, notes=notes), settings


def _is_mp_child(host: Host) -> bool:
    import sys

    from affinity.host.kernel import LinuxKernel

    if not isinstance(host.kernel, LinuxKernel) or "multiprocessing.process" not in sys.modules:
        return False
    import multiprocessing.process

    return multiprocessing.process.parent_process() is not None


def _own_gpus(gpu: GpuRef, launch: Launch, found: Inventory, note: Note | None) -> tuple[tuple[Gpu, ...], str]:
    """This worker's GPUs: those named, else the parent's word, else the launcher's rank, else all it can see."""
    if gpu is None and note is not None and note.gpus:
        gpu = note.gpus
    if gpu is None and launch.local_rank is not None and len(found.visible) > 1:
        gpu = launch.local_rank
    if gpu is None:
        several = len({g.node for g in found.visible}) > 1
        return found.visible, "no GPU was named: all visible ones are this worker's" if several else ""
    references = [gpu] if isinstance(gpu, str | int) else list(gpu)
    return tuple(dict.fromkeys(g for r in references for g in resolve(r, found))), ""


def providers() -> Registry[DeviceProvider]:
    return Registry("affinity.devices", DeviceProvider)  # type: ignore[type-abstract]


def strategies() -> Registry[AffinityStrategy]:
    return Registry("affinity.strategies", AffinityStrategy)  # type: ignore[type-abstract]


def policies() -> Registry[PlacementPolicy]:
    return Registry("affinity.policies", PlacementPolicy)  # type: ignore[type-abstract]


# ---------------------------------------------------------------- place, select


def _plan(host: Host, launch: Launch, settings: Settings) -> Plan:
    placement, problem = None, ""
    try:
        placement = policies().get(settings.policy).place(host, launch, settings)
        placement = attrs.evolve(placement, migrate=settings.migrate)
    except PlacementError as impossible:
        if settings.required:
            raise
        problem = str(impossible)
    selection = select(Case(settings, launch, host, placement, problem), strategies())
    return Plan(launch, placement, problem, selection)


# ---------------------------------------------------------------- bind


class _Attempts:
    """The ladder: each weaker placement, with each usable strategy, until one is put in force."""

    def __init__(self, planned: Plan, settings: Settings) -> None:
        self.planned = planned
        self.required = settings.required
        self.degradations: list[Degradation] = []
        self.strategy = planned.selection.strategy

    def first(
        self, act: Callable[[AffinityStrategy, Placement], T], placement: Placement, default: T
    ) -> tuple[T, Placement | None]:
        """What the first successful attempt gives, and its placement; the default and None where none succeeds.

        Under `required` a weaker placement is no success: CannotBind.
        """
        names = (self.planned.selection.strategy, *self.planned.selection.fallbacks)
        registry = strategies()
        rung: Placement | None = placement
        while rung is not None:
            for name in names:
                try:
                    result = act(registry.get(name), rung)
                except (OSError, CannotBind) as refused:
                    self.degradations.append(Degradation.of(f"{name}: {_words(rung)}", refused))
                else:
                    self.strategy = name
                    return result, rung
            if self.required:
                break
            rung = rung.weaker()
        if self.required:
            raise CannotBind("required, but refused: " + "; ".join(map(str, self.degradations)))
        self.strategy = "noop"
        return default, None


def _words(placement: Placement) -> str:
    return f"CPUs {placement.cpus}" + (f" and memory {placement.memory}" if placement.memory else "")


@contextmanager
def _entered(planned: Plan, host: Host, settings: Settings) -> Iterator[tuple[Selection, Placement | None]]:
    """Inside the strategy's `spawning`, or the first fallback's that lets itself be entered."""
    from contextlib import ExitStack

    attempts = _Attempts(planned, settings)
    with ExitStack() as stack:
        _, used = attempts.first(
            lambda s, rung: stack.enter_context(s.spawning(rung, host)),
            planned.placement or Placement(None, None),
            default=None,
        )
        given_up = "; ".join(map(str, attempts.degradations))
        reason = planned.selection.reason + (f"; given up: {given_up}" if given_up else "")
        yield attrs.evolve(planned.selection, strategy=attempts.strategy, reason=reason), used


def _note_for_child(host: Host, launch: Launch, placement: Placement | None) -> Note:
    bound = placement.cpus if placement is not None and placement.cpus is not None else host.kernel.get_affinity()
    gpus = ",".join(str(g.pci) for g in launch.gpus if g.pci is not None)
    return Note(bound, host.allowed_cpus, gpus)


def _bind_here(planned: Plan, host: Host, settings: Settings) -> BindReport:
    kernel = host.kernel
    placement = planned.placement
    now = Observed.read(kernel)
    attempts = _Attempts(planned, settings)
    outcome = Outcome()
    undo: Callable[[], Observed] = lambda: Observed.read(kernel)  # noqa: E731
    already = placement is not None and _in_force(now, placement, host)
    if placement is not None and not already and planned.selection.strategy != "noop":
        before = Before(dict(now.threads), now.policy, Note(placement.cpus or CpuSet(), host.allowed_cpus))
        outcome, _ = attempts.first(lambda s, rung: s.bind(rung, host), placement, default=Outcome())
        now = Observed.read(kernel)
        mask = now.threads[now.caller]
        remember(kernel, attrs.evolve(before, note=attrs.evolve(before.note, bound=mask)))
        undo = lambda: _restore(host, before)  # noqa: E731
    report = BindReport(
        strategy=attempts.strategy,
        reason=planned.selection.reason,
        launch=planned.launch,
        selection=planned.selection,
        requested=placement,
        observed=now,
        already=already,
        satisfied=False,
        degradations=(),
        outcome=outcome,
        age=kernel.age(),
        undo=undo,
    )
    return _verified(report, attempts.degradations, planned, settings)


def _in_force(now: Observed, placement: Placement, host: Host) -> bool:
    """The caller is there, and no thread still has the mask from before."""
    if not now.shows(placement):
        return False
    return placement.cpus in (None, host.allowed_cpus) or host.allowed_cpus not in now.threads.values()


# ---------------------------------------------------------------- verify


def _verified(report: BindReport, given_up: Sequence[Degradation], planned: Plan, settings: Settings) -> BindReport:
    """The report with what the kernel contradicts; under `required`, an incomplete binding is undone and raised."""
    told = [*given_up, *(Degradation.of("move pages touched before", e) for e in report.outcome.refused)]
    told += report.observed.unread
    placement = report.requested
    shown = placement is None or report.observed.shows(placement)
    if planned.problem:
        told.append(Degradation("place", "", planned.problem, ""))
    elif not shown and report.strategy != "noop" and not given_up:
        mask = report.observed.threads.get(report.observed.caller)
        told.append(
            Degradation(
                f"strategy {report.strategy}",
                "",
                f"it reported success, but the kernel shows CPUs {mask}, memory policy {report.observed.policy}",
                f"report this to its author ({_words(placement)} was asked for)" if placement else "",
            )
        )
    satisfied = shown and not planned.problem
    report = attrs.evolve(report, satisfied=satisfied, degradations=tuple(told))
    if settings.required and report.strategy != "noop" and not satisfied:
        report.undo()
        raise CannotBind("required, but not in force: " + "; ".join(map(str, told)))
    return report


def _restore(host: Host, before: Before) -> Observed:
    """Masks and policy as they were, and the proof of it."""
    kernel = host.kernel
    mine = kernel.get_affinity()
    for tid in kernel.threads():
        try:
            mask = kernel.get_affinity(tid)
            old = before.masks.get(tid, before.note.original)
            if mask != old and (tid in before.masks or mask == mine):
                kernel.set_affinity(tid, old)
        except ProcessLookupError:
            continue
    if before.policy is not None:
        kernel.set_mempolicy(before.policy)
    if ours(kernel) is None or recall(kernel) is not None:
        forget(kernel)
    now = Observed.read(kernel)
    me = now.caller
    if now.threads.get(me) != before.masks.get(me) or (before.policy is not None and now.policy != before.policy):
        raise CannotBind(f"undo: CPUs {now.threads.get(me)}, memory policy {now.policy} are in force, not as before")
    return now


@contextmanager
def restored(*, host: Host | None = None) -> Iterator[None]:
    """After the block, this process is back in the state it had before it, verified.

    Every thread's CPU mask and the calling thread's memory policy; pages stay where they are.
    """
    host = host or Host.live()
    now = Observed.read(host.kernel)
    mask = now.threads[now.caller]
    before = Before(dict(now.threads), now.policy, Note(mask, mask))
    try:
        yield
    finally:
        _restore(host, before)


__all__ = ["MemoryPolicy", "Plan", "bind", "plan", "restored", "spawning"]
