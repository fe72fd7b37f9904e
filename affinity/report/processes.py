"""`GpuProcesses`: the processes that use the machine's GPUs, and whether each runs next to its own.

Reading them changes nothing, and stalls none for more than a few milliseconds unless that is asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import attrs

from affinity.devices.gpu import Gpu
from affinity.devices.inventory import Inventory
from affinity.devices.use import EVERY_PROCESS, Evidence, GpuUse, ProcessFilter
from affinity.errors import AffinityError, BindError, PlacementError, SettingsError
from affinity.handoff import VARIABLE, Handoff, process_mask
from affinity.host import Host
from affinity.kernel.mempolicy import MemoryMode, MemoryPolicy
from affinity.kernel.pages import COUNT_SECONDS
from affinity.kernel.protocol import Process, ancestors
from affinity.launchers.launch import Launch, LaunchMode
from affinity.observation import Observation
from affinity.observe import given_gpus
from affinity.plugins import Plugins
from affinity.policies.placement import Placement
from affinity.policies.policy import missing_memory_reason
from affinity.report import undo
from affinity.report.locality import Assessment, Fault, Locality, ProcessState, assess
from affinity.report.observed import page_nodes, share_on
from affinity.report.remedy import allow_memory, restart_or_cpuset
from affinity.report.undo import UndoRecord
from affinity.settings import Settings
from affinity.topology.cpuset import CpuSet, NodeSet
from affinity.topology.model import PciAddress


class Bound(NamedTuple):
    """A bind of a process by this package: the strategy, and when it began, in seconds since the epoch.

    cpus: the mask that was set. allowed: the CPUs that the process could use before. memory: the policy, "" for none.
    gpus: references. in_force: whether its main thread still has the mask. inherited: the bind was of the process that
    started this one, whose GPU may be another.
    """

    strategy: str
    since: float
    cpus: CpuSet
    allowed: CpuSet
    memory: str = ""
    gpus: tuple[str, ...] = ()
    in_force: bool = True
    inherited: bool = False


@attrs.frozen
class GpuProcess:
    """One process on one GPU.

    use: the evidence, with the PID. gpu: None if it is not known which. identity: PID, start time and boot as one text.
    user, command: None and () if the process cannot be seen. worker: the worker's own name, if its launcher shows one.
    age: seconds since it started. state: its threads and pages. placement: the one of `gpus`, all that it uses, None if
    there is none. bound: its bind by this package, at its start or from outside; None if there was none, or if the
    process has bound itself, which leaves no record that another one can read. assessment: where it is, why, and what
    to do.
    """

    use: GpuUse
    gpu: Gpu | None
    assessment: Assessment
    identity: str = ""
    user: str | None = None
    command: tuple[str, ...] = ()
    worker: str = ""
    age: float | None = None
    state: ProcessState = ProcessState()
    gpus: tuple[Gpu, ...] = ()
    placement: Placement | None = None
    bound: Bound | None = None

    @property
    def pid(self) -> int:
        assert self.use.pid is not None
        return self.use.pid

    @property
    def left_alone(self) -> str:
        """Why it is bound only if its PID is named: it is not misplaced, or not for certain, or bound by another hand.

        "" if `affinity attach --all` binds it. A bind by this package is no reason.
        """
        found, state = self.assessment, self.state
        if not found.locality.is_misplaced:
            return f"{found.locality.value}: {found.reason}"
        if self.bound is not None and self.bound.in_force:
            return ""
        main = state.threads.get(self.pid, state.cpus)
        if not state.limit <= main:
            return f"its CPU mask {main} was set by something else, its cpuset has CPUs {state.limit}"
        own = [str(policy) for policy in state.policies if policy.mode not in (MemoryMode.DEFAULT, MemoryMode.LOCAL)]
        if own:
            return f"it has memory policy {', '.join(own)} of its own"
        hidden = state.unreadable and not state.policies
        return f"its memory policies cannot be read: {state.unreadable}" if hidden else ""

    @property
    def threads_inside(self) -> int | None:
        """Number of threads that may run on the CPUs of the placement alone."""
        if self.placement is None or self.placement.cpus is None:
            return None
        return self.state.threads_inside(self.placement.cpus)

    @property
    def local_share(self) -> float | None:
        """Share (0 to 1) of its own pages on the nodes of the placement; None if unknown."""
        return share_on(page_nodes(self.placement), self.state.resident) if self.placement is not None else None


@attrs.define(eq=False)
class GpuProcesses:
    """Reader of the processes of this machine's GPUs. The machine is read once, the processes at each call."""

    host: Host
    settings: Settings
    gpus: tuple[Gpu, ...]
    notes: tuple[str, ...]
    _plugins: Plugins
    _placements: dict[tuple[object, ...], Placement | str] = attrs.field(factory=dict)
    _users: dict[int, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, host: Host | None = None, settings: Settings | None = None) -> GpuProcesses:
        """Return the reader for a host (default: this machine). Raise as `affinity.plan`."""
        host = host or Host.live()
        host.require_this_machine()
        settings = settings or Settings.from_environ(host.kernel.environ)
        plugins = Plugins()
        plugins.require_named(settings)
        inventory = Inventory(host, settings, {}, plugins.devices)
        gpus = inventory.machine
        return cls(host, settings, gpus, (*host.notes, *inventory.notes), plugins)

    def uses(self, asked: ProcessFilter = EVERY_PROCESS) -> tuple[list[GpuUse], list[str]]:
        """Return which process uses which GPU now, as the device providers show it, and notes on what they lack.

        asked: only these processes. For one process and GPU only the strongest evidence is returned.
        """
        inventory = Inventory(self.host, self.settings, {}, self._plugins.devices)
        best: dict[tuple[object, ...], GpuUse] = {}
        notes: list[str] = []
        order = list(Evidence)
        for use in inventory.uses(self.gpus, asked):
            if use.pid is None:
                notes.append(f"{use.gpu}: {use.reason}" if use.gpu else use.reason)
                continue
            key = use.pid, use.gpu, use.is_here
            if key not in best or order.index(use.evidence) < order.index(best[key].evidence):
                best[key] = use
        return list(best.values()), [*inventory.notes, *notes]

    def gpus_of(self, process: Process) -> tuple[Gpu, ...]:
        """Return the GPUs that a process uses, as in its rows; () if that is not certain."""
        uses, _ = self.uses(ProcessFilter({process.pid}, {process.pid}))
        gpus, unknown = self._gpus_of(process, [use for use in uses if use.pid == process.pid and use.is_here])
        return () if unknown else gpus

    def rows(
        self, uses: Iterable[GpuUse], *, user: int | None = None, pids: Collection[int] = (), full: bool = False
    ) -> list[GpuProcess]:
        """Return a row for each process and GPU. A process that has ended has none.

        user: only processes that run as this user. pids: only these; one that uses no GPU has a row too.
        full: count the pages of every process, however long that stalls it.
        """
        by_pid: dict[tuple[int, bool], list[GpuUse]] = {(pid, True): [] for pid in pids}
        for use in uses:
            if use.pid is not None and (not pids or use.pid in pids):
                by_pid.setdefault((use.pid, use.is_here), []).append(use)
        longest = math.inf if full else COUNT_SECONDS
        found = []
        for (pid, is_here), known in by_pid.items():
            theirs = known or [GpuUse(pid, None, Evidence.UNKNOWN, "")]
            if not is_here:
                found += [GpuProcess(use, self._gpu(use.gpu), _NOT_HERE) for use in theirs]
                continue
            try:
                found += self._rows_of(pid, theirs, user, longest)
            except ProcessLookupError:
                continue
            except SettingsError:
                raise
            except (AffinityError, OSError, ValueError) as wrong:  # one process costs its own row
                reason = f"{type(wrong).__name__}: {wrong}"
                found += [GpuProcess(use, self._gpu(use.gpu), Assessment(Locality.UNKNOWN, reason)) for use in theirs]
        return found

    def _rows_of(self, pid: int, uses: Sequence[GpuUse], user: int | None, longest: float) -> list[GpuProcess]:
        process = self.host.kernel.process(pid)
        owner = process.owner()
        if user not in (None, owner):
            return []
        record = _undo_record(process, self.host)
        bound = _bound(process, record, self.host)
        state = self._state(process, bound, longest)
        command = tuple(process.command())
        gpus, placed = self._placed(process, uses, state.limit)
        placement = placed if isinstance(placed, Placement) else None
        assessment = assess(state, placed, self.host.topology) if isinstance(placed, Placement) else placed
        row = GpuProcess(
            uses[0], None, assessment, process.identity(), self._user(owner), command, self._worker(command),
            process.age(), state, gpus, placement, bound,
        )  # fmt: skip
        remedy = _remedy(process, row, undo.allowed_before(process, record))
        assessment = assessment._replace(remedy=remedy)
        return [attrs.evolve(row, use=use, gpu=self._gpu(use.gpu), assessment=assessment) for use in uses]

    def check_policy(self) -> None:
        """Raise SettingsError or PluginError if no process can be placed, whichever it is."""
        self._placement(self.gpus[:1], self.host.topology.online, NodeSet(self.host.topology.by_id))

    # -- the process

    def _state(self, process: Process, bound: Bound | None, longest: float) -> ProcessState:
        policies: dict[MemoryPolicy, int] = {}
        resident, unreadable = None, ""
        threads = process.affinities()
        try:
            for policy in process.mempolicies().values():
                policies[policy] = policies.get(policy, 0) + 1
            resident = process.resident_bytes(longest)
        except ProcessLookupError:
            raise
        except OSError as refused:  # another user's process, a kernel without NUMA, or no sample is allowed
            unreadable = str(refused.strerror)
        return ProcessState(threads, policies, resident, unreadable, self._limit(process, bound))

    def _limit(self, process: Process, bound: Bound | None) -> CpuSet:
        """Return the CPUs that the process may use at most: those before this package narrowed them, else its cpuset's.

        A mask that something else has set is what this table is about, and no limit here.
        """
        cpuset = process.cpuset_cpus() & self.host.topology.online
        return bound.allowed & cpuset if bound is not None and bound.in_force else cpuset

    def _user(self, owner: int) -> str:
        if owner not in self._users:
            import pwd

            try:
                self._users[owner] = pwd.getpwuid(owner).pw_name
            except KeyError:
                self._users[owner] = str(owner)
        return self._users[owner]

    def _worker(self, command: Sequence[str]) -> str:
        for name in self._plugins.launchers.names():
            try:
                worker = self._plugins.launchers.get(name).worker_name(command)
            except Exception:  # a broken one, which `affinity strategies` lists, or one that raises: it names no worker
                continue
            if worker:
                return worker
        return ""

    # -- its GPUs and their placement

    def _gpu(self, address: PciAddress | None) -> Gpu | None:
        return next((gpu for gpu in self.gpus if address is not None and gpu.pci == address), None)

    def _gpus_of(self, process: Process, uses: Sequence[GpuUse]) -> tuple[tuple[Gpu, ...], Assessment | None]:
        """Return the GPUs of the process, and why they are not certain, None if they are."""
        certain = [use.gpu for use in uses if use.evidence in (Evidence.USES, Evidence.ASSIGNED)]
        found = map(self._gpu, certain or [use.gpu for use in uses])
        gpus = tuple(gpu for gpu in found if gpu is not None)
        if not gpus:
            return (), Assessment(Locality.UNKNOWN, "no GPU is known that it uses")
        if not certain and len({gpu.node for gpu in gpus}) > 1:
            given = given_gpus(self._plugins, process, self.host, self.settings)
            gpus = tuple(gpu for gpu in gpus if str(gpu.pci) in given) or gpus
        if not certain and len({gpu.node for gpu in gpus}) > 1:
            reason = "it has the device files of GPUs on several nodes open, which does not show the one that it uses"
            nvml = "install numa-affinity[nvml]" if any(gpu.vendor == "nvidia" for gpu in gpus) else ""
            return gpus, Assessment(Locality.UNKNOWN, reason, nvml)
        return gpus, None

    def _placed(
        self, process: Process, uses: Sequence[GpuUse], limit: CpuSet
    ) -> tuple[tuple[Gpu, ...], Placement | Assessment]:
        """Return the GPUs of the process and their placement, or why it is unknown."""
        gpus, unknown = self._gpus_of(process, uses)
        if unknown is not None:
            return gpus, unknown
        placed = self._placement(gpus, limit, process.allowed_nodes() & NodeSet(self.host.topology.by_id))
        if isinstance(placed, Placement):
            return gpus, placed
        remedy = "set AFFINITY_NODES, a node for each GPU in PCI order" if any(g.node is None for g in gpus) else ""
        return gpus, Assessment(Locality.UNKNOWN, placed, remedy)

    def _placement(self, gpus: tuple[Gpu, ...], cpus: CpuSet, nodes: NodeSet) -> Placement | str:
        """Return the placement of a worker with these GPUs under these limits, or why there is none."""
        key = gpus, cpus, nodes
        if key not in self._placements:
            policy = self._plugins.policies.get(self.settings.policy)
            self.settings.check(policy.options)
            host = attrs.evolve(self.host, allowed_cpus=cpus, allowed_nodes=nodes)
            launch = Launch(LaunchMode.INLINE, gpus=gpus, machine_gpus=self.gpus)
            try:
                observation = Observation(host, launch, self.settings)
                placed = policy.place(observation)
                placed = attrs.evolve(placed, reason=missing_memory_reason(placed, observation) or placed.reason)
                self._placements[key] = placed if placed.cpus is not None else placed.reason
            except PlacementError as impossible:
                self._placements[key] = str(impossible)
        return self._placements[key]


_NOT_HERE = Assessment(
    Locality.UNKNOWN, "its PID is not one of this PID namespace", "run `affinity ps` on the host, or in its container"
)


def _undo_record(process: Process, host: Host) -> UndoRecord | None:
    """Return the record of an `attach` whose mask the process has, None if there is none."""
    try:
        return undo.in_force(process, host.kernel)
    except BindError:  # a directory or a file that cannot be trusted
        return None


def _bound(process: Process, record: UndoRecord | None, host: Host) -> Bound | None:
    if record is not None:
        inherited = record.identity != process.identity()
        return Bound(record.strategy, record.when, record.cpus, record.allowed, inherited=inherited)
    found = _start_record(process)
    if found is None or found.strategy == "noop":
        return None
    in_force = found.cpus & host.topology.online == process_mask(process)
    since = time.time() - process.age()
    inherited = found.by not in ("", process.identity()) and Handoff.received(process) is None
    return Bound(found.strategy, since, found.cpus, found.allowed, found.memory, found.gpus, in_force, inherited)


def _start_record(process: Process) -> Handoff | None:
    """Return the record of a bind at the start of the process or of one that started it, None if there is none."""
    received = Handoff.received(process)
    if received is not None:
        return received
    try:
        found = Handoff.parse(process.environ.get(VARIABLE, ""))
    except PermissionError:  # another user's
        return None
    if found is None or any(found.by == one.identity() for one in (process, *ancestors(process))):
        return found
    return None


def _remedy(process: Process, row: GpuProcess, allowed: CpuSet) -> str:
    """Return what to do about threads, pages, and new pages that are outside of the placement.

    allowed: the CPUs that the process may use if its mask is a limit.
    """
    placement, faults = row.placement, row.assessment.faults
    if placement is None or placement.cpus is None or not faults:
        return row.assessment.remedy
    cpus, nodes, cgroup, found = placement.cpus, page_nodes(placement), process.cgroup(), []
    can_move_pages = nodes <= process.allowed_nodes()
    main = process_mask(process)
    pinned = sum(mask != main and not mask <= cpus for mask in row.state.threads.values())
    if not main <= cpus or (Fault.PAGES in faults and can_move_pages):
        names = ",".join(str(gpu.pci) for gpu in row.gpus)
        found.append(f"affinity attach {process.pid} --gpu {names}{'' if cpus <= allowed else ' --widen'}")
    if pinned:
        found.append(
            f"{pinned} threads have a mask of their own, which `affinity attach` leaves alone: change it in the "
            f"program, or by `taskset -cp {cpus} TID`"
        )
    if Fault.PAGES in faults and not can_move_pages:
        found.append(allow_memory(cgroup, nodes))
    if Fault.NEW_PAGES in faults:
        found.append(restart_or_cpuset(cgroup, nodes))
    return "; ".join(found)
