"""`attach`: bind another process, which runs; and take that back.

The five verbs of a bind, with what only an outsider has to do: make sure which process it is, before and after; see
what cannot be set from outside; write down what was there before the first change.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

import attrs

from affinity.api import Plan, make_plan
from affinity.degradation import Degradation, messages
from affinity.errors import BindError, PlacementError, UsageError
from affinity.handoff import process_mask
from affinity.host import Host
from affinity.kernel.mempolicy import MemoryMode, MemoryPolicy
from affinity.kernel.protocol import Process
from affinity.kernel.refusals import is_of_masks
from affinity.observe import GpuReference, given_gpus, observe_other
from affinity.plugins import Plugins
from affinity.policies.placement import Placement
from affinity.report import undo as undo_records
from affinity.report.log import log_report, log_warnings
from affinity.report.observed import Observed, page_nodes
from affinity.report.processes import GpuProcesses
from affinity.report.remedy import allow_memory, restart_or_cpuset
from affinity.report.report import BindReport
from affinity.report.undo import UndoRecord
from affinity.selection.fallback import Applied, apply
from affinity.settings import Settings
from affinity.strategies.process import change_masks
from affinity.strategies.strategy import Outcome
from affinity.topology.cpuset import NodeSet


@attrs.frozen
class Attachment:
    """What `attach` would do to a process, and what it cannot do.

    before: its state. policies: those of its threads. obstacles: what cannot be set from outside, each with what helps.
    record: of an earlier `attach`, None if there was none.
    """

    planned: Plan
    process: Process
    before: Observed
    policies: Mapping[int, MemoryPolicy]
    obstacles: tuple[Degradation, ...]
    record: UndoRecord | None

    @property
    def host(self) -> Host:
        return self.planned.observation.host


def attach(
    pid: int,
    *,
    gpu: GpuReference = None,
    node: int | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
    widen: bool = False,
) -> BindReport:
    """Bind a process that runs, from outside: all of its threads, and its private pages.

    gpu, node: as for `plan`; default: the GPUs that it uses, as `affinity ps` finds them, else those that its own
    environment or launcher gives it, if that is certain.
    settings: default: from this process's environment. widen: its CPU mask is no limit, only its cpuset is.
    Raise UsageError if there is no such process or its GPU is not known; BindError if it ended meanwhile or, under
    `required`, if something cannot be set from outside. Its memory policy stays as it is; the report lists each thread
    that goes on taking memory elsewhere. `report.undo()` restores the masks; so does `affinity attach --undo`.
    """
    report = attach_unlogged(pid, gpu=gpu, node=node, settings=settings, host=host, widen=widen)
    log_report(report)
    return report


def attach_unlogged(
    pid: int,
    *,
    gpu: GpuReference,
    node: int | None,
    settings: Settings | None,
    host: Host | None,
    widen: bool,
    identity: str = "",
) -> BindReport:
    """Do the same for a caller that prints the report.

    identity: of the process that it found, which may have ended since.
    """
    host = host or Host.live()
    process = find_process(pid, host, identity)
    try:
        with process.watched():
            return _attach(prepare(process, host, gpu=gpu, node=node, settings=settings, widen=widen))
    except ProcessLookupError as ended:
        undo_records.delete(process.identity(), host.kernel)
        raise BindError(f"process {pid} ended while it was bound: nothing of it is left to bind") from ended


def find_process(pid: int, host: Host, identity: str = "") -> Process:
    """Return the process to bind. Raise UsageError if it is none, a kernel thread, or the one that asks.

    identity: raise BindError if it is not this process.
    """
    host.require_this_machine()
    try:
        process = host.kernel.process(pid)
    except ProcessLookupError:
        raise UsageError(f"process {pid} is not here; expected one that runs: compare `ps -e`") from None
    except PermissionError as kernel_thread:
        raise UsageError(f"process {pid} is {kernel_thread.strerror}, which is the kernel's: it is not bound") from None
    if process.pid == host.kernel.pid:
        raise UsageError(f"process {pid} is the one that asks: use affinity.bind()")
    if identity not in ("", process.identity()):
        raise BindError(f"process {pid} has ended, and its PID is another process's now: that one was left alone")
    return process


def prepare(
    process: Process, host: Host, *, gpu: GpuReference, node: int | None, settings: Settings | None, widen: bool = False
) -> Attachment:
    """Return what `attach` would do, without changing anything. Errors as `attach`."""
    if gpu is not None and node is not None:
        raise UsageError(f"gpu={gpu!r} and node={node!r} were given: use either gpu=… or node=…, not both")
    plugins = Plugins()
    settings = settings or Settings.from_environ(host.kernel.environ)
    record = undo_records.read(process, host.kernel)
    allowed = undo_records.allowed_before(process, undo_records.in_force(process, host.kernel))
    cpuset = process.cpuset_cpus()
    if gpu is None and node is None:
        gpu = _own_gpus(process, host, settings, plugins)
    host = attrs.evolve(
        host,
        allowed_cpus=(cpuset if widen else allowed & cpuset) & host.topology.online,
        allowed_nodes=process.allowed_nodes(),
    )
    observation = observe_other(plugins, process, host, settings, gpu=gpu, node=node)
    hint = ""
    if not widen and not cpuset <= allowed:
        hint = f"; its CPU mask is {allowed}, its cpuset {cpuset}: --widen (widen=True) if the mask is no limit"
    try:
        planned = make_plan(observation, plugins)
    except PlacementError as impossible:
        raise PlacementError(f"{impossible}{hint}") from impossible
    if planned.problem:
        planned = attrs.evolve(planned, problem=planned.problem + hint)
    before = Observed.read(process)
    policies, unreadable = _policies(process)
    obstacles = (*unreadable, *_obstacles(planned, process, before, policies))
    return Attachment(planned, process, before, policies, obstacles, record)


def _own_gpus(process: Process, host: Host, settings: Settings, plugins: Plugins) -> tuple[str, ...]:
    """Return references to the GPUs that a process uses, else to those that it was given. Raise UsageError for none."""
    used = GpuProcesses.of(host, settings).gpus_of(process)
    found = tuple(str(gpu.pci) for gpu in used) or given_gpus(plugins, process, host, settings)
    if not found:
        raise UsageError(f"which GPU process {process.pid} uses is not certain from drivers, its open files or "
                         "its environment: pass its GPU (--gpu, gpu=…) or a node (--node, node=…)")  # fmt: skip
    return found


def _policies(process: Process) -> tuple[Mapping[int, MemoryPolicy], tuple[Degradation, ...]]:
    """Return the memory policy of each thread, or none and why they could not be read."""
    try:
        return process.mempolicies(), ()
    except ProcessLookupError:
        raise
    except OSError as refused:
        return {}, (_from_outside(Degradation.of("read the memory policy of every thread", refused)),)


def _obstacles(
    planned: Plan, process: Process, before: Observed, policies: Mapping[int, MemoryPolicy]
) -> tuple[Degradation, ...]:
    """Return what cannot be set from outside, as far as that is known before a call is made."""
    placement, observation = planned.placement, planned.observation
    if placement is None or planned.selection.strategy == "noop":
        return ()
    found = []
    cgroup = process.cgroup()
    own_nodes = observation.host.topology.nodes_of(placement.cpus, placement.nodes) if placement.cpus else NodeSet()
    missing = (own_nodes or placement.nodes) - observation.host.allowed_nodes
    if missing and observation.settings.memory is not None:
        error = f"its cpuset allows memory of node {observation.host.allowed_nodes}, not of node {missing}"
        found.append(Degradation(f"memory on node {missing}", "", error, allow_memory(cgroup, placement.nodes)))
    nodes = page_nodes(placement)
    for policy, threads in Counter(policies.values()).items():
        if policy.mode not in (MemoryMode.DEFAULT, MemoryMode.LOCAL) and not policy.nodes <= nodes:
            error = (f"new memory still goes to node {policy.nodes}: {threads} of {len(policies)} threads have memory "
                     f"policy {policy}, which a thread can set only for itself")  # fmt: skip
            found.append(Degradation(f"memory on node {nodes}", "", error, restart_or_cpuset(cgroup, nodes)))
    if placement.migrate and placement.memory is not None and before.resident is not None:
        found += _without_room(process, nodes, sum(s for n, s in before.resident.items() if n not in nodes))
    return tuple(found)


def _without_room(process: Process, nodes: NodeSet, needed: int) -> list[Degradation]:
    try:
        room = sum(map(process.available_bytes, nodes))
    except OSError:  # a kernel without NUMA has no such file
        return []
    if needed <= room:
        return []
    error = f"{needed >> 20} MiB lie elsewhere, node {nodes} has room for {room >> 20} MiB: the rest stays"
    return [Degradation("move pages touched before", "", error, "free memory there, or use --no-pages")]


def _attach(made: Attachment) -> BindReport:
    observation, planned, process = made.planned.observation, made.planned, made.process
    kernel, required = made.host.kernel, observation.settings.required
    log_warnings(observation.warnings)
    if required and made.obstacles:
        raise BindError("required, but not possible from outside: " + "; ".join(map(str, made.obstacles)))
    if planned.placement is None or planned.selection.strategy == "noop":
        return _report(made, None, made.before, made.policies)
    record = _record(made, planned.placement)
    undo_records.write(record, kernel)
    try:
        step = apply(
            lambda strategy, placement: strategy.bind(placement, observation),
            planned.placement,
            planned.selection,
            planned._plugins.strategies,
            required=required,
        )
        if step.placement is None:
            _restore(process, record, made)
        else:
            shown = process_mask(process)  # a CPU that is offline or outside the cpuset is cut
            record = attrs.evolve(record, cpus=shown, strategy=step.strategy)
            undo_records.write(record, kernel)
        now = Observed.read(process)
        report = _report(made, step, now, _policies(process)[0])
        if required and not report.satisfied:
            raise BindError("required, but not in force: " + "; ".join(messages(report.degradations)))
    except BaseException as refused:
        try:
            _restore(process, record, made)
        except ProcessLookupError:
            raise
        except OSError as error:
            raise BindError(f"{refused}; {Degradation.of('put back', error)}") from refused
        raise
    return report


def _record(made: Attachment, placement: Placement) -> UndoRecord:
    """Return the undo record: of an earlier `attach` that is still in force, what was there before that one."""
    earlier, threads = made.record, made.before.threads
    cpus = placement.cpus if placement.cpus is not None else threads[made.before.caller]
    usable = undo_records.usable_cpus(made.process)
    if earlier is not None and threads[made.before.caller] == earlier.cpus & usable:
        known = {tid: earlier.mask_before(tid, mask, usable) for tid, mask in threads.items()}
        return attrs.evolve(earlier, cpus=cpus, threads=known, when=time.time())
    return UndoRecord(
        identity=made.process.identity(),
        cpus=cpus,
        main=threads[made.before.caller],
        threads=threads,
        allowed=made.host.allowed_cpus,
        when=time.time(),
    )


def _restore(process: Process, record: UndoRecord, made: Attachment) -> None:
    """Put the masks back that a refused `attach` found, and the record of an earlier one."""
    before = made.before.threads
    main = before[made.before.caller]
    change_masks(process, lambda tid, mask: before.get(tid, main) if mask == record.cpus else mask)
    if made.record is None:
        undo_records.delete(record.identity, made.host.kernel)
    else:
        undo_records.write(made.record, made.host.kernel)


def undo(pid: int, *, host: Host | None = None) -> Observed:
    """Restore the CPU masks that a process had before `attach`, from the undo record; return the state after that.

    A thread that was pinned since keeps its mask; one started since gets the mask of the main thread. Pages stay where
    they are. Raise UsageError if there is no record, BindError if the kernel shows other masks than before.
    """
    host = host or Host.live()
    process = find_process(pid, host)
    try:
        with process.watched():
            record = undo_records.read(process, host.kernel)
            if record is None:
                raise UsageError(f"process {pid} has no undo record of this user: it was not attached, or it is undone")
            usable = undo_records.usable_cpus(process)
            _, errors = change_masks(process, lambda tid, mask: record.mask_before(tid, mask, usable))
            now = Observed.read(process)
    except ProcessLookupError as ended:
        raise BindError(f"process {pid} ended while its masks were restored") from ended
    wrong = [tid for tid, mask in now.threads.items() if record.mask_before(tid, mask, usable) & usable != mask]
    if errors or wrong:
        reasons = "; ".join(dict.fromkeys(str(_from_outside(Degradation.of("CPUs", error))) for error in errors))
        raise BindError(f"undo: {len(wrong)} of {len(now.threads)} threads still have CPUs {record.cpus}, expected "
                        f"those before: {reasons or 'they were set again meanwhile'}")  # fmt: skip
    undo_records.delete(record.identity, host.kernel)
    return now


def _report(
    made: Attachment, step: Applied[Outcome] | None, now: Observed, policies: Mapping[int, MemoryPolicy]
) -> BindReport:
    """Return the report, from the state that the kernel shows. step: None if nothing was changed."""
    observation, planned, requested = made.planned.observation, made.planned, made.planned.placement
    outcome = step.result if step and step.result else Outcome()
    strategy = step.strategy if step else planned.selection.strategy
    degradations = [*made.obstacles, *(step.degradations if step else ())]
    degradations += [Degradation.of_outcome(strategy, error) for error in outcome.errors]
    if outcome.unmoved >= 1 << 20:
        size = f"{outcome.unmoved >> 20} MiB"
        stays = f"{size} stay: pinned, as for io_uring or a device, or shared with a process that it was forked from"
        degradations.append(Degradation("move pages touched before", "", stays, "restart it through `affinity run`"))
    degradations += [d for d in now.unreadable if d.action == "read the nodes of pages"]
    if planned.problem:
        degradations.append(Degradation("place", "", planned.problem, ""))
    late = _late_threads(made, step, now)
    degradations += late
    elsewhere = {d.action for d in made.obstacles} - {"move pages touched before"}
    in_force = step is None or (step.placement == requested and not late and not elsewhere)
    masks_refused = any(map(is_of_masks, outcome.errors))
    return BindReport(
        strategy=strategy,
        reason=planned.selection.with_result(strategy, step.degradations if step else ()).reason,
        launch=observation.launch,
        selection=planned.selection,
        requested=requested,
        observed=now,
        already_bound=step is not None and step.placement == requested and outcome.bound == 0,
        satisfied=in_force and not masks_refused and not planned.problem,
        degradations=tuple(dict.fromkeys(map(_from_outside, degradations))),
        outcome=outcome,
        age=made.process.age(),
        undo=lambda: undo(made.process.pid, host=made.host),
    )


def _late_threads(made: Attachment, step: Applied[Outcome] | None, now: Observed) -> list[Degradation]:
    """Return a degradation for threads that have neither the placement nor a mask that their owner gave them."""
    if step is None or step.placement is None or step.placement.cpus is None:
        return []
    main = made.before.threads[made.before.caller]
    cpus = step.placement.cpus
    wrong = [mask for tid, mask in now.threads.items() if mask != cpus and (mask == main or tid == now.caller)]
    if not wrong:
        return []
    error = f"the kernel shows CPUs {wrong[0]} for {len(wrong)} of {len(now.threads)} threads, expected {cpus}"
    return [Degradation("bind every thread", "", error, "attach again; compare its cpuset with the placement")]


def _from_outside(found: Degradation) -> Degradation:
    """Return the degradation with the remedy for a call on another process, where a right is missing.

    An error of a plugin's own is returned as it is.
    """
    if found.errno not in ("EPERM", "EACCES") or not found.remedy:
        return found
    right = "CAP_SYS_NICE" if "sched_setaffinity" in found.error else "CAP_SYS_PTRACE"
    remedy = f"run as the user of the process or as root ({right}); a container's seccomp profile may refuse it too"
    return attrs.evolve(found, remedy=remedy)
