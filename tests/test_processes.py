"""Rows of processes on GPUs, on simulated machines: the placement, the comparison with it, and what each is called."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import attrs
import pytest

import affinity
from affinity import CpuSet, Host, NodeSet, Settings, attach
from affinity.devices import (
    EVERY_PROCESS,
    DeviceError,
    DeviceProvider,
    Evidence,
    Gpu,
    GpuUse,
    ProcessFilter,
    Support,
)
from affinity.kernel import MemoryMode, MemoryPolicy, ResidentBytes
from affinity.plugins import Plugins
from affinity.policies.placement import Placement
from affinity.report.locality import Locality, ProcessState, assess
from affinity.report.processes import GpuProcess, GpuProcesses
from affinity.testing import FakeHost, SimulatedKernel
from affinity.topology import PciAddress, Topology

MIB = 1 << 20
TOPOLOGY: Topology = FakeHost("pack:2 core:4").topology
PLACED = Placement(CpuSet.parse("4-7"), MemoryPolicy(MemoryMode.PREFERRED, NodeSet([1])), NodeSet([1]))


def state(*masks: str, resident: dict[int, int] | None = None, sampled: int = 0, **policies: int) -> ProcessState:
    threads = {tid: CpuSet.parse(mask) for tid, mask in enumerate(masks, 100)}
    named = {
        MemoryPolicy(): policies.pop("default", len(masks)),
        **{MemoryPolicy(MemoryMode(name.rstrip("0")), NodeSet([0])): count for name, count in policies.items()},
    }
    pages = ResidentBytes({1: 1} if resident is None else resident, sampled)
    return ProcessState(threads, named, pages, limit=TOPOLOGY.online)


@pytest.mark.parametrize(
    ("seen", "locality", "reason"),
    [
        (state("4-7", "5"), Locality.LOCAL, "its threads may run on CPUs 4-7 alone"),
        (state("0-7", "0-7"), Locality.NOT_BOUND, "2 of 2 threads may run outside CPUs 4-7"),
        (state("0-3", "2"), Locality.REMOTE, "2 of 2 threads may run outside CPUs 4-7"),
        (state("4-7", "0-7", "0"), Locality.PARTLY, "2 of 3 threads may run outside CPUs 4-7"),
        (state("0-7", "0-3"), Locality.PARTLY, "2 of 2 threads may run outside CPUs 4-7"),
        (state("4-7", resident={0: 20, 1: 80}), Locality.PARTLY, "20% of its memory is not on node 1"),
        (state("4-7", resident={0: 9, 1: 91}), Locality.LOCAL, "its threads may run on CPUs 4-7 alone"),
        (state("4-7", resident={0: 12, 1: 88}, sampled=1000), Locality.LOCAL, "its threads may run on CPUs 4-7 alone"),
        (state("4-7", resident={0: 12, 1: 88}), Locality.PARTLY, "12% of its memory is not on node 1"),
        (state("4-7", resident={}), Locality.LOCAL, "its threads may run on CPUs 4-7 alone"),
        (
            state("0", resident={0: 1}, bind0=1, default=0),
            Locality.REMOTE,
            "1 of 1 threads may run outside CPUs 4-7; 100% of its memory is not on node 1; "
            "new memory of 1 threads goes to node 0 (bind:0), which only they can change",
        ),
        (
            state("4-7", preferred0=1, default=0),
            Locality.PARTLY,
            "new memory of 1 threads goes to node 0 (preferred:0), which only they can change",
        ),
    ],
)  # fmt: skip
def test_the_comparison_with_a_placement(seen: ProcessState, locality: Locality, reason: str) -> None:
    """GPU on node 1 of two nodes with four CPUs each."""
    assert assess(seen, PLACED, TOPOLOGY)[:3] == (locality, reason, "")


def test_memory_that_cannot_be_read_is_not_taken_for_local() -> None:
    """The remedy depends on whether the memory map is readable at all. On one node there is nothing to read."""
    seen = attrs.evolve(state("4-7"), resident=None, unreadable="Operation not permitted; it would stall")
    found = assess(seen, PLACED, TOPOLOGY)
    assert (found.locality, found.remedy) == (Locality.UNKNOWN, "--full counts its pages, which stalls it")
    assert found.reason.endswith("the nodes of its memory cannot be read: Operation not permitted; it would stall")
    found = assess(attrs.evolve(seen, policies={}), PLACED, TOPOLOGY)
    assert (found.locality, found.remedy) == (Locality.UNKNOWN, "run `affinity ps` as root (CAP_SYS_PTRACE)")
    found = assess(attrs.evolve(seen, threads={100: TOPOLOGY.online}), PLACED, TOPOLOGY)
    assert found.locality is Locality.NOT_BOUND
    assert found.reason.endswith("the nodes of its memory cannot be read: Operation not permitted; it would stall")
    one = FakeHost("pack:1 core:8").topology
    assert assess(seen, attrs.evolve(PLACED, nodes=NodeSet([0])), one).locality is Locality.LOCAL


def test_another_workers_share_of_the_node_is_not_remote() -> None:
    """Under a policy that splits: the CPUs are near the GPU."""
    placed = attrs.evolve(PLACED, cpus=CpuSet.parse("4-5"))
    assert assess(state("6-7"), placed, TOPOLOGY).locality is Locality.PARTLY


# ---------------------------------------------------------------- rows


#: The CPUs of node 1 of the simulated machine.
NODE1 = FakeHost("dgx-h100").topology.cpus_of(NodeSet([1]))


class Machine:
    """A simulated machine with one process that looks, and those that a test starts."""

    def __init__(
        self,
        name: str = "dgx-h100",
        allowed_nodes: NodeSet | None = None,
        resets_masks: bool = False,
        **settings: object,
    ) -> None:
        self.fake = FakeHost(name, allowed_nodes=allowed_nodes, resets_masks=resets_masks)
        self.reader = GpuProcesses.of(self.fake.host, Settings(devices=("pci",), **settings))  # type: ignore[arg-type]

    def start(self, *command: str, cpus: CpuSet | None = None) -> SimulatedKernel:
        process = self.fake.kernel.spawn(list(command) or ["server"])
        if cpus is not None:
            process.set_affinity(0, cpus)
        return process

    def use(self, process: SimulatedKernel, gpu: int, evidence: Evidence = Evidence.USES) -> GpuUse:
        return GpuUse(process.pid, self.reader.gpus[gpu].pci, evidence, "a test")

    def rows(self, *uses: GpuUse, **more: object) -> list[GpuProcess]:
        return self.reader.rows(uses, **more)  # type: ignore[arg-type]


def test_a_row_has_what_the_kernel_shows() -> None:
    """A process that is bound to its GPU's node, with a second thread that is not."""
    machine = Machine()
    process = machine.start("python", "serve.py", cpus=machine.fake.topology.cpus_of(NodeSet([1])))
    process.touch(64 * MIB)
    process.set_affinity(process.start_thread(), CpuSet([0]))
    (row,) = machine.rows(machine.use(process, 4))
    assert row.placement is not None
    assert row.gpu == machine.reader.gpus[4]
    assert row.placement.cpus == machine.fake.topology.cpus_of(NodeSet([1]))
    assert (row.pid, row.user, row.command) == (process.pid, "root", ("python", "serve.py"))
    assert (row.threads_inside, len(row.state.threads), row.local_share) == (1, 2, 1.0)
    assert row.state.policies == {MemoryPolicy(): 2}
    assert row.assessment.locality is Locality.PARTLY
    assert row.assessment.remedy.startswith("1 threads have a mask of their own")


def test_each_fault_has_its_remedy() -> None:
    """What `attach` cannot do from outside takes a restart, or the command of the container's manager."""
    machine = Machine()
    gpu = machine.reader.gpus[4].pci
    process = machine.start()
    process.touch(MIB)
    (row,) = machine.rows(machine.use(process, 4))
    assert row.assessment.remedy == f"affinity attach {row.pid} --gpu {gpu}"
    process.set_affinity(0, CpuSet([0]))
    (row,) = machine.rows(machine.use(process, 4))
    assert row.assessment.remedy == f"affinity attach {row.pid} --gpu {gpu} --widen"
    process.set_affinity(0, machine.fake.topology.cpus_of(NodeSet([1])))
    (row,) = machine.rows(machine.use(process, 4))  # its page alone is elsewhere
    assert (row.local_share, row.assessment.remedy) == (0.0, f"affinity attach {row.pid} --gpu {gpu}")
    process.migrate_pages(NodeSet([0]), NodeSet([1]))
    process.set_mempolicy(MemoryPolicy(MemoryMode.BIND, NodeSet([0])))
    process._cgroup = f"/system.slice/docker-{'0123456789ab' * 5}0123.scope"
    (row,) = machine.rows(machine.use(process, 4))
    assert row.assessment.remedy == (
        "restart it through `affinity run`, or move its whole control group: docker update --cpuset-mems 1 0123456789ab"
    )


def test_memory_that_a_cpuset_forbids_is_its_managers_to_allow() -> None:
    """Pages could not be moved there."""
    machine = Machine(allowed_nodes=NodeSet([0]))
    process = machine.start(cpus=machine.fake.topology.cpus_of(NodeSet([1])))
    process.touch(MIB)
    (row,) = machine.rows(machine.use(process, 4))
    assert row.assessment.reason.startswith("100% of its memory is not on node 1 (memory of node 1 is not allowed here")
    assert row.assessment.remedy == "widen cpuset.mems of its control group"


def test_pages_that_may_not_be_sampled_are_counted_on_request() -> None:
    """Where a container's profile refuses the sample; the remedy names the option."""
    machine = Machine()
    process = machine.start(cpus=machine.fake.topology.cpus_of(NodeSet([1])))
    machine.fake.kernel.refuse("resident", errno.EPERM, when=lambda: True)
    (row,) = machine.rows(machine.use(process, 4))
    assert (row.assessment.locality, row.state.resident) == (Locality.UNKNOWN, None)
    assert row.assessment.remedy == "--full counts its pages, which stalls it"


def test_a_named_process_that_cannot_be_read_has_a_row_with_the_error() -> None:
    """Also without a GPU: it is not taken for one that has ended."""
    machine = Machine()
    process = machine.start()
    machine.fake.kernel.refuse("threads", errno.EACCES)
    (row,) = machine.rows(pids=[process.pid])
    assert (row.pid, row.assessment.locality) == (process.pid, Locality.UNKNOWN)
    assert "EACCES" in row.assessment.reason or "Permission denied" in row.assessment.reason


@pytest.mark.parametrize("offline", [False, True])
def test_a_bind_of_which_cpus_were_lost_is_in_force(offline: bool) -> None:
    """The process may use no more than its cpuset has now. A CPU that goes offline is cut on every kernel."""
    machine = Machine(resets_masks=offline)
    process = machine.start()
    attach(process.pid, gpu=str(machine.reader.gpus[4].pci), host=machine.fake.host)
    left = CpuSet.parse("0-10,56-60")
    if offline:
        process.narrow(offline=process.cpuset - left)
    else:
        process.narrow(cpuset=left)
    (row,) = machine.rows(machine.use(process, 4))
    assert row.bound is not None
    assert (row.bound.in_force, row.bound.strategy) == (True, "external")
    assert (row.state.limit, row.state.cpus) == (left, CpuSet.parse("56-60"))
    assert row.assessment.locality is Locality.LOCAL


def test_a_bind_whose_masks_a_changed_cpuset_reset_is_in_force_no_more() -> None:
    """As before Linux 6.2: the process runs on all CPUs of its cpuset, and is listed as such."""
    machine = Machine(resets_masks=True)
    process = machine.start()
    process.touch(MIB)
    attach(process.pid, gpu=str(machine.reader.gpus[4].pci), host=machine.fake.host)
    left = CpuSet.parse("0-10,56-60")
    process.narrow(cpuset=left)
    (row,) = machine.rows(machine.use(process, 4))
    assert row.bound is None or not row.bound.in_force
    assert (row.state.limit, row.state.cpus) == (left, left)
    assert row.assessment.locality is not Locality.LOCAL


def test_a_process_with_gpus_on_two_nodes_is_placed_on_both() -> None:
    """One placement, and a row for each GPU."""
    machine = Machine()
    rows = machine.rows(*(machine.use(process, gpu) for process in [machine.start()] for gpu in (0, 7)))
    assert [row.gpu for row in rows] == [machine.reader.gpus[0], machine.reader.gpus[7]]
    assert {row.assessment.locality for row in rows} == {Locality.LOCAL}
    assert rows[0].placement is not None
    assert rows[0].placement.nodes == NodeSet([0, 1])


def test_weak_evidence_of_gpus_on_several_nodes_decides_nothing() -> None:
    """On one node it does; and strong evidence outweighs it."""
    machine = Machine()
    process = machine.start(cpus=machine.fake.topology.cpus_of(NodeSet([0])))
    process.touch(MIB)
    weak = [machine.use(process, gpu, Evidence.MAY_USE) for gpu in range(8)]
    assert {row.assessment.locality for row in machine.rows(*weak)} == {Locality.UNKNOWN}
    assert machine.rows(*weak)[0].assessment.remedy == "install numa-affinity[nvml]"
    assert {row.assessment.locality for row in machine.rows(*weak[:4])} == {Locality.LOCAL}
    assert {row.assessment.locality for row in machine.rows(*weak, machine.use(process, 5))} == {Locality.REMOTE}


def test_the_statement_of_a_launcher_outweighs_open_files() -> None:
    """Also of one that assigns several GPUs."""
    machine = Machine()
    process = machine.start(cpus=machine.fake.topology.cpus_of(NodeSet([0])))
    weak = [machine.use(process, gpu, Evidence.MAY_USE) for gpu in range(8)]
    rows = machine.rows(*weak, machine.use(process, 7, Evidence.ASSIGNED))
    assert {row.assessment.locality for row in rows} == {Locality.REMOTE}


def test_what_something_else_has_bound_is_left_alone() -> None:
    """By a mask or by a memory policy; a process that nothing has bound is not, and one that is local needs nothing."""
    machine = Machine()
    reasons = []
    for cpus, nodes in (None, None), (CpuSet([0]), None), (None, NodeSet([0])), (NODE1, None):
        process = machine.start(cpus=cpus)
        if nodes is not None:
            process.set_mempolicy(MemoryPolicy(MemoryMode.BIND, nodes))
        reasons.append(machine.rows(machine.use(process, 4))[0].left_alone)
    assert [reason[:28] for reason in reasons] == [
        "",
        "its CPU mask 0 was set by so",
        "it has memory policy bind:0 ",
        "local: its threads may run o",
    ]


def test_a_gpu_whose_node_is_unknown_has_no_placement() -> None:
    """With what to do, and the operator's word decides."""
    machine = Machine("vm-two-nodes")
    process = machine.start()
    (row,) = machine.rows(machine.use(process, 0))
    assert (row.assessment.locality, row.placement) == (Locality.UNKNOWN, None)
    assert row.assessment.remedy == "set AFFINITY_NODES, a node for each GPU in PCI order"
    named = Machine("vm-two-nodes", nodes=tuple(0 for _ in machine.reader.gpus))
    assert named.rows(named.use(named.start(), 0))[0].assessment.locality is not Locality.UNKNOWN


def test_a_worker_that_was_started_bound_is_compared_with_its_own_share() -> None:
    """Its limit is what was allowed before the bind: its own mask would be a limit that hides everything."""
    machine = Machine(policy="exclusive")
    share = machine.rows(machine.use(machine.start(), 5))[0].placement
    assert share is not None
    assert share.cpus is not None
    record = f"cpus={share.cpus};allowed={machine.fake.topology.online};strategy=numactl"
    worker = machine.start("python", "-X", f"affinity={record}", "-c", "work", cpus=share.cpus)
    worker.touch(MIB)
    (row,) = machine.rows(machine.use(worker, 5))
    assert row.bound is not None
    assert (row.bound.strategy, row.assessment.locality) == ("numactl", Locality.LOCAL)
    worker.set_affinity(0, machine.fake.topology.online)  # something has widened it since
    (row,) = machine.rows(machine.use(worker, 5))
    assert row.bound is not None
    assert (row.bound.strategy, row.assessment.locality) == ("numactl", Locality.NOT_BOUND)


def test_the_limit_of_a_worker_that_was_started_bound_is_what_its_parent_could_use() -> None:
    """Here a quarter of the node, in which its share is another one than in the whole node."""
    machine = Machine(policy="exclusive")
    limit = CpuSet.parse("56-69,168-181")
    record = f"cpus={limit};allowed={limit};strategy=numactl"
    worker = machine.start("python", "-X", f"affinity={record}", "-c", "work", cpus=limit)
    (row,) = machine.rows(machine.use(worker, 5))
    assert row.placement is not None
    assert row.placement.cpus is not None
    assert row.placement.cpus <= limit


def test_a_record_in_the_environment_counts_for_what_the_bound_process_starts() -> None:
    """And not where none of those that started it has written it."""
    machine = Machine()
    parent, stranger = machine.start("bash"), machine.start("bash")
    record = f"cpus=0;allowed=0-3;strategy=inherit;by={parent.identity()}"
    child = parent.spawn(["server"])
    other = stranger.spawn(["server"])
    for process in (parent, child, other):
        process.environ["AFFINITY_BOUND"] = record
    rows = machine.rows(*(machine.use(process, 0) for process in (parent, child, other)))
    assert [row.bound.strategy if row.bound else None for row in rows] == ["inherit", "inherit", None]


class Provider(DeviceProvider):
    """One that lists what a test gives it, and keeps what it was asked about."""

    def __init__(self, shown: Sequence[GpuUse] | Exception | None, *vendors: str) -> None:
        self.shown, self.asked = shown, ()
        self.driver_vendors = frozenset(vendors)  # type: ignore[misc]

    def supports(self, host: Host) -> Support:
        return Support.yes()

    def devices(self, host: Host, settings: Settings) -> tuple[Gpu, ...]:
        return ()

    def processes(
        self, host: Host, gpus: Sequence[Gpu], asked: ProcessFilter = EVERY_PROCESS
    ) -> Sequence[GpuUse] | None:
        self.asked = tuple(gpus)
        if isinstance(self.shown, Exception):
            raise self.shown
        return self.shown


@attrs.frozen
class Providers:
    """In place of the installed ones."""

    found: dict[str, DeviceProvider]

    def names(self) -> tuple[str, ...]:
        return tuple(self.found)

    def get(self, name: str) -> DeviceProvider:
        return self.found[name]


def listed(machine: Machine, **found: DeviceProvider) -> tuple[list[GpuUse], list[str]]:
    plugins = Plugins()
    plugins.devices = Providers({"nvml": Provider(None), "pci": Provider(None), **found})  # type: ignore[assignment]
    reader = attrs.evolve(machine.reader, plugins=plugins, settings=Settings())
    return reader.uses()


def test_files_are_not_asked_where_a_driver_has_answered() -> None:
    """Nor where it shows none; they are where it cannot answer, and then its error is a note."""
    machine = Machine()
    gpus = machine.reader.gpus
    files = Provider([])
    assert listed(machine, nvml=Provider([], "nvidia"), pci=files) == ([], [])
    assert files.asked == ()
    for silent in (None, DeviceError("nvml: no driver"), KeyError("a mistake")):
        uses, notes = listed(machine, nvml=Provider(silent, "nvidia"), pci=files)
        assert (uses, files.asked) == ([], gpus)
        assert len(notes) == (silent is not None)
    amd = Provider([], "amd")
    listed(machine, nvml=amd, pci=files)
    assert (amd.asked, files.asked) == ((), gpus)


def test_the_strongest_evidence_of_a_process_and_gpu_is_kept() -> None:
    """Of several providers, or of one. What has no PID is a note."""
    machine = Machine()
    first, second = (gpu.pci for gpu in machine.reader.gpus[:2])
    weak = [GpuUse(7, first, Evidence.MAY_USE, "open"), GpuUse(7, second, Evidence.MAY_USE, "open")]
    strong = [GpuUse(7, first, Evidence.USES, "a client"), GpuUse(None, first, Evidence.UNKNOWN, "refused")]
    uses, notes = listed(machine, other=Provider(weak), pci=Provider(strong))
    assert uses == [strong[0], weak[1]]
    assert notes == [f"{first}: refused"]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("ray::Scheduler.step", "Scheduler"),
        ("ray::Scheduler", "Scheduler"),
        ("ray::embed()", "embed"),
        ("ray::IDLE", ""),
        ("python", ""),
    ],
)
def test_a_worker_has_the_name_that_its_launcher_gave_it(title: str, name: str) -> None:
    """As its process title shows it; no launcher is imported that is heavy."""
    machine = Machine()
    assert machine.rows(machine.use(machine.start(title), 0))[0].worker == name


def test_a_filter_by_user_and_by_pid() -> None:
    """A process that uses no GPU has a row where it is asked for, one that does not exist has none."""
    machine = Machine()
    mine, theirs, idle = machine.start(), machine.start(), machine.start()
    theirs.user = 1000
    uses = machine.use(mine, 0), machine.use(theirs, 1)
    assert [row.pid for row in machine.rows(*uses)] == [mine.pid, theirs.pid]
    assert [row.pid for row in machine.rows(*uses, user=1000)] == [theirs.pid]
    (row,) = machine.rows(*uses, pids=(idle.pid, 99999))
    assert (row.pid, row.gpu, row.assessment.reason) == (idle.pid, None, "no GPU is known that it uses")
    assert machine.rows(*uses, pids=(idle.pid, theirs.pid))[1].user == machine.rows(uses[1])[0].user != "root"


def test_a_process_that_cannot_be_read_costs_its_own_row() -> None:
    """And one that has ended has none."""
    machine = Machine()
    fine, ended, broken = machine.start(), machine.start(), machine.start()
    ended.end()
    uses = [machine.use(process, 0) for process in (fine, ended, broken)]
    machine.fake.kernel.refuse("get_affinity", errno.EIO, when=lambda tid: tid == broken.pid)
    rows = machine.rows(*uses)
    assert [row.pid for row in rows] == [fine.pid, broken.pid]
    assert rows[1].assessment.locality is Locality.UNKNOWN
    assert "Input/output error" in rows[1].assessment.reason
    assert rows[0].assessment.locality is Locality.NOT_BOUND


def test_a_pid_of_another_namespace_is_never_looked_at() -> None:
    """A process here has the same number."""
    machine = Machine()
    process = machine.start()
    use = GpuUse(process.pid, PciAddress.parse(str(machine.reader.gpus[0])), Evidence.UNKNOWN, "NVML", is_here=False)
    calls = len(machine.fake.kernel.log)
    (row,) = machine.rows(use)
    assert (row.user, row.command, row.assessment.locality) == (None, (), Locality.UNKNOWN)
    assert row.assessment.reason == "its PID is not one of this PID namespace"
    assert len(machine.fake.kernel.log) == calls


def test_only_this_machine_has_processes() -> None:
    """A captured one has none."""
    with pytest.raises(Exception, match="never bound, only planned for"):
        GpuProcesses.of(Host.synthetic("pack:2 core:4 gpu:1"))


@pytest.mark.parametrize(("strategy", "bound"), [("inherit", "inherit"), ("noop", None)])
def test_a_worker_that_was_started_and_left_as_it_is_has_no_bind(strategy: str, bound: str | None) -> None:
    """Its state is what decides: it may run anywhere, and is misplaced."""
    fake = FakeHost("pack:2 core:4 gpu:1")
    with affinity.spawning(gpu=1, host=fake.host, settings=Settings(strategies=(strategy,))):
        worker = fake.start_worker()
    reader = GpuProcesses.of(fake.host, Settings())
    (row,) = reader.rows([GpuUse(worker.kernel.pid, reader.gpus[1].pci, Evidence.USES, "a driver")])
    assert (row.bound.strategy if row.bound else None) == bound
    assert row.assessment.locality is (Locality.LOCAL if bound else Locality.NOT_BOUND)
