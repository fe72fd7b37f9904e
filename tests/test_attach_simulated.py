"""`attach` to another process of a simulated machine: nodes that this machine does not have, and every refusal."""

from __future__ import annotations

import errno

import pytest

import affinity
from affinity import BindError, CpuSet, NodeSet, PlacementError, Settings, UsageError
from affinity.external import undo
from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.report.remedy import cpuset_command
from affinity.testing import FakeHost

MIB = 1 << 20
REQUIRED = Settings(required=True)
NODE_1 = CpuSet.parse("56-111,168-223")


def machine(*, resets_masks: bool = False) -> FakeHost:
    return FakeHost("dgx-h100", resets_masks=resets_masks)


def test_threads_and_pages_go_to_the_gpus_node_and_the_masks_come_back() -> None:
    """The process that attaches, and a bystander, are as they were."""
    fake = machine()
    other, bystander = (fake.start_process(threads=20, size=256 * MIB) for _ in range(2))
    before = fake.kernel.masks, fake.kernel.policies, bystander.masks, bystander.pages_by_node
    report = affinity.attach(other.pid, gpu=7, host=fake.host, settings=REQUIRED)
    assert (report.strategy, report.satisfied, report.degradations) == ("external", True, ())
    assert (set(other.masks.values()), other.pages_by_node) == ({NODE_1}, {1: 256 * MIB})
    assert (report.moved, report.local_share) == (256 * MIB, 1)
    assert set(report.undo().threads.values()) == {fake.topology.online}
    assert (fake.kernel.masks, fake.kernel.policies, bystander.masks, bystander.pages_by_node) == before
    assert other.pages_by_node == {1: 256 * MIB}


def test_the_record_is_written_before_the_first_call_and_taken_back_on_a_refusal() -> None:
    """A record that cannot be kept would be a bind that cannot be undone."""
    fake = machine()
    other = fake.start_process(threads=3)
    fake.kernel.refuse("set_affinity", errno.EPERM)
    report = affinity.attach(other.pid, gpu=7, host=fake.host)
    assert (report.strategy, report.satisfied) == ("noop", False)
    assert all("CAP_SYS_NICE" in d.remedy for d in report.degradations)
    with pytest.raises(UsageError, match="no undo record"):
        undo(other.pid, host=fake.host)
    with pytest.raises(BindError, match="required"):
        affinity.attach(other.pid, gpu=7, host=fake.host, settings=REQUIRED)


@pytest.mark.parametrize("refused", [2, 3])
def test_under_required_a_thread_that_is_refused_undoes_all(refused: int) -> None:
    """The kernel refuses io_uring's threads; best effort binds the others and reports it."""
    fake = machine()
    other = fake.start_process(threads=4, size=MIB)
    masks = other.masks
    fake.kernel.refuse("set_affinity", errno.EINVAL, when=lambda tid, cpus: tid == other.pid + refused)
    with pytest.raises(BindError, match="bind every thread"):
        affinity.attach(other.pid, gpu=7, host=fake.host, settings=REQUIRED)
    assert other.masks == masks
    report = affinity.attach(other.pid, gpu=7, host=fake.host)
    assert (report.satisfied, list(other.masks.values()).count(NODE_1)) == (False, 3)


@pytest.mark.parametrize("resists", [False, True])
def test_a_new_thread_at_each_reading_of_the_list_does_not_hold_attach_up(resists: bool) -> None:
    """One that has the mask is no reason to read on; one that takes the old mask back each time is reported."""
    fake = machine()
    other = fake.start_process()

    def start(*_: object) -> bool:
        if other.masks:
            tid = other.start_thread()
            if resists:
                other.set_affinity(tid, fake.topology.online)
        return False

    fake.kernel.refuse("threads", errno.EIO, when=start)
    report = affinity.attach(other.pid, gpu=7, host=fake.host)
    assert other.masks[other.pid] == NODE_1
    assert report.satisfied is not resists
    assert (len(other.masks) < 20) is not resists
    assert not resists or "attach again" in str(report.degradations[0])


@pytest.mark.parametrize("mode", [MemoryMode.BIND, MemoryMode.PREFERRED, MemoryMode.INTERLEAVE])
def test_a_thread_with_a_policy_elsewhere_is_reported_with_what_helps(mode: MemoryMode) -> None:
    """Its new pages still go there; with what its manager could do, if the control group shows one."""
    fake = machine()
    other = fake.start_process(threads=3, size=MIB)
    other.set_mempolicy(MemoryPolicy(mode, NodeSet([0])))
    with pytest.raises(BindError, match="new memory still goes to node 0"):
        affinity.attach(other.pid, gpu=7, host=fake.host, settings=REQUIRED)
    assert (set(other.masks.values()), other.pages_by_node) == ({fake.topology.online}, {0: MIB})
    report = affinity.attach(other.pid, gpu=7, host=fake.host)
    (degraded,) = report.degradations
    assert "1 of 3 threads have memory policy" in degraded.error
    assert degraded.remedy == "restart it through `affinity run`"
    assert (report.satisfied, other.pages_by_node) == (False, {1: MIB})
    other.touch(MIB)
    assert other.pages_by_node == {0: MIB, 1: MIB}


@pytest.mark.parametrize("mode", [MemoryMode.LOCAL, MemoryMode.PREFERRED])
def test_a_policy_that_leads_to_the_node_is_no_obstacle(mode: MemoryMode) -> None:
    """Local allocation follows the CPUs."""
    fake = machine()
    other = fake.start_process()
    other.set_mempolicy(MemoryPolicy(mode, NodeSet([1]) if mode is MemoryMode.PREFERRED else NodeSet()))
    assert affinity.attach(other.pid, gpu=7, host=fake.host, settings=REQUIRED).satisfied


def test_policies_that_cannot_be_read_are_no_success() -> None:
    """An undumpable process."""
    fake = machine()
    other = fake.start_process()
    fake.kernel.refuse("get_mempolicy", errno.EACCES)
    report = affinity.attach(other.pid, gpu=7, host=fake.host)
    assert (report.satisfied, set(other.masks.values())) == (False, {NODE_1})
    assert "CAP_SYS_PTRACE" in report.degradations[0].remedy


def test_a_cpuset_without_the_nodes_memory() -> None:
    """CPUs alone are bound, and pages stay."""
    fake = machine()
    other = fake.start_process(size=MIB)
    fake.kernel.narrow(mems=NodeSet([0]))
    report = affinity.attach(other.pid, gpu=7, host=fake.host)
    assert "its cpuset allows memory of node 0, not of node 1" in {d.error for d in report.degradations}
    assert (report.satisfied, set(other.masks.values()), other.pages_by_node) == (False, {NODE_1}, {0: MIB})
    report.undo()
    with pytest.raises(BindError, match="not of node 1"):
        affinity.attach(other.pid, gpu=7, host=fake.host, settings=REQUIRED)


def test_a_node_without_room_takes_what_fits() -> None:
    """Under `required` nothing is moved at all."""
    fake = FakeHost("dgx-h100", free={0: 256 * MIB, 1: 64 * MIB})
    other = fake.start_process(size=128 * MIB)
    with pytest.raises(BindError, match="128 MiB lie elsewhere, node 1 has room for 64 MiB"):
        affinity.attach(other.pid, gpu=7, host=fake.host, settings=REQUIRED)
    assert (other.pages_by_node, set(other.masks.values())) == ({0: 128 * MIB}, {fake.topology.online})
    report = affinity.attach(other.pid, gpu=7, host=fake.host)
    assert other.pages_by_node == {0: 64 * MIB, 1: 64 * MIB}
    assert (report.moved, report.satisfied) == (64 * MIB, True)
    assert {d.errno for d in report.degradations} == {"", "ENOMEM"}


def test_a_process_that_ends_before_a_call_is_an_error() -> None:
    """Between the plan and the first mask."""
    fake = machine()
    other = fake.start_process(threads=3)

    def end(*_: object) -> bool:
        if other.masks:
            other.end()
        return True

    fake.kernel.refuse("set_affinity", errno.ESRCH, when=end)
    with pytest.raises(BindError, match=f"process {other.pid} ended while it was bound"):
        affinity.attach(other.pid, gpu=7, host=fake.host)


def test_without_migration_pages_stay() -> None:
    """AFFINITY_MIGRATE=0, which --no-pages sets."""
    fake = machine()
    other = fake.start_process(size=MIB)
    assert affinity.attach(other.pid, gpu=7, host=fake.host, settings=Settings(migrate=False)).satisfied
    assert other.pages_by_node == {0: MIB}


def test_a_policy_that_divides_gives_each_process_its_share() -> None:
    """The second attach of a process goes from one share to the other."""
    fake = machine()
    exclusive = Settings(policy="exclusive", required=True)
    masks = []
    for gpu in (6, 7):
        other = fake.start_process(threads=2)
        affinity.attach(other.pid, gpu=gpu, host=fake.host, settings=exclusive)
        masks.append(other.masks[other.pid])
    assert masks[0].isdisjoint(masks[1])
    report = affinity.attach(other.pid, gpu=6, host=fake.host, settings=exclusive)
    assert set(other.masks.values()) == {masks[0]}
    report.undo()
    assert set(other.masks.values()) == {fake.topology.online}


def test_a_mask_is_a_limit_and_one_of_an_earlier_attach_is_none() -> None:
    """The error names the way past it."""
    fake = machine()
    other = fake.start_process()
    other.set_affinity(0, CpuSet([0, 1]))
    with pytest.raises(PlacementError, match=r"allowed: 0-1.*--widen"):
        affinity.attach(other.pid, gpu=7, host=fake.host, settings=REQUIRED)
    assert affinity.attach(other.pid, gpu=7, host=fake.host, settings=REQUIRED, widen=True).satisfied
    assert affinity.attach(other.pid, gpu=0, host=fake.host, settings=REQUIRED, widen=True).satisfied
    assert undo(other.pid, host=fake.host).threads == {other.pid: CpuSet([0, 1])}


def test_the_first_generation_and_binding_of_itself_are_not_for_another_process() -> None:
    """The strategies that serve other launch modes are not chosen, named or not."""
    fake = machine()
    other = fake.start_process()
    assert affinity.attach(other.pid, gpu=7, host=fake.host, settings=Settings(v2=False)).strategy == "external"
    with pytest.raises(BindError, match="does not serve launch mode attach"):
        affinity.attach(other.pid, gpu=7, host=fake.host, settings=Settings(strategies=("libnuma",)))
    with pytest.raises(UsageError, match="launch mode attach"):
        affinity.bind(launch_mode="attach", gpu=7, host=fake.host)
    with pytest.raises(UsageError, match="either gpu=… or node=…"):
        affinity.attach(other.pid, gpu=7, node=1, host=fake.host)


DOCKER = "f" * 12 + "0" * 52


@pytest.mark.parametrize(
    ("cgroup", "command"),
    [
        (f"/docker/{DOCKER}", "docker update --cpuset-mems 3 ffffffffffff"),
        (f"/system.slice/docker-{DOCKER}.scope", "docker update --cpuset-mems 3 ffffffffffff"),
        (f"/machine.slice/libpod-{DOCKER}.scope/container", "podman update --cpuset-mems 3 ffffffffffff"),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{DOCKER}.scope", "static CPU manager"),
        ("/system.slice/vllm.service", "systemctl set-property --runtime vllm.service AllowedMemoryNodes=3"),
        ("/system.slice/vllm.service/worker", "systemctl set-property --runtime vllm.service AllowedMemoryNodes=3"),
        ("/user.slice/user-1.slice/session-3.scope", "session-3.scope AllowedMemoryNodes=3"),
        ("/system.slice/strangers", ""),
        ("/", ""),
        ("/slurm/uid_1000/job_7", ""),
    ],
)
def test_the_managers_command_is_printed_where_the_path_shows_the_manager(cgroup: str, command: str) -> None:
    """And none where it does not."""
    found = cpuset_command(cgroup, NodeSet([3]))
    assert command in found if command else found == ""


@pytest.mark.parametrize("resets_masks", [False, True], ids=["from-6.2", "before-6.2"])
@pytest.mark.parametrize("offline", [False, True])
def test_undo_and_a_second_attach_find_a_mask_of_which_cpus_were_lost(resets_masks: bool, offline: bool) -> None:
    """Gone from its cpuset, or offline: the kernel shows the rest of the mask, which is no mask of its owner's.

    Before Linux 6.2 a changed cpuset gives the threads all of its CPUs; an offline CPU is cut on every kernel.
    """
    fake = machine(resets_masks=resets_masks)
    other = fake.start_process(threads=3)
    affinity.attach(other.pid, gpu=7, host=fake.host)
    left = CpuSet.parse("0-10,56-60")
    if offline:
        other.narrow(offline=other.cpuset - left)
    else:
        other.narrow(cpuset=left)
    expected = left if resets_masks and not offline else CpuSet.parse("56-60")
    assert set(other.masks.values()) == {expected}
    assert affinity.attach(other.pid, gpu=0, host=fake.host).requested.cpus == CpuSet.parse("0-10")
    assert set(undo(other.pid, host=fake.host).threads.values()) == {left}


def test_pages_are_moved_though_their_nodes_cannot_be_read() -> None:
    """As where a sample is not possible, and a count would stall the process; the report states it."""
    fake = machine()
    other = fake.start_process(size=256 * MIB)
    fake.kernel.refuse("resident", errno.ENODATA)
    report = affinity.attach(other.pid, gpu=7, host=fake.host)
    assert other.pages_by_node == {1: 256 * MIB}
    assert (report.local_share, report.moved) == (None, 0)
    assert [d.action for d in report.degradations] == ["read the nodes of pages"]
