"""In a cpuset: what the kernel makes of each call, and what the framework makes of that.

The machine: node 0 has CPUs 0-1, node 1 2-3, node 2 4-5, node 3 6-7; each has memory; GPUs are on 0, 1, 3, 3 and
one has no node. Sources: cpuset(7), sched_setaffinity(2), set_mempolicy(2), migrate_pages(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import affinity
from affinity import CpuSet, Host, NodeSet, Settings
from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.kernel.linux import THIS_PROCESS
from affinity.strategies.start import current_block, worker_command
from affinity.testing import SimulatedKernel

from .confined import confined

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import seccomp

MACHINES = ("two-package", "arm-two-package", "arm-16k")
pytestmark = pytest.mark.machine(*MACHINES)
#: What Linux does where the limits of a running process change has changed with 6.2.
changing = pytest.mark.machine(*MACHINES, "two-package-backports")

UNPRIVILEGED = 65534
REQUIRED = Settings(required=True)
LINUX = tuple(int(number) for number in os.uname().release.split(".")[:2])


def outcome(call: Callable[[], object]) -> str:
    """What a call gave, as text: its errno's name where it is refused."""
    try:
        return str(call())
    except OSError as refused:
        return errno.errorcode[refused.errno or 0]


def now() -> list[str]:
    """The calling thread's CPUs and memory policy."""
    return [str(THIS_PROCESS.get_affinity()), str(THIS_PROCESS.get_mempolicy())]


def bound(**arguments: Any) -> dict[str, Any]:
    """Bind, and show what came of it."""
    try:
        report = affinity.bind(**arguments)
    except affinity.BindError as refused:
        return {"error": str(refused), "now": now()}
    return {
        "error": None,
        "strategy": report.strategy,
        "satisfied": report.satisfied,
        "printed": [str(d) for d in report.degradations],
        "reported": str(report),
        "share": report.local_share,
        "now": now(),
    }


# ---------------------------------------------------------------- the kernel's rules


@pytest.mark.parametrize(
    ("asked", "given"), [("3-5", "3-4"), ("0-7", "2-4"), ("2", "2"), ("0-1", "EINVAL"), ("7", "EINVAL")]
)
def test_a_mask_partly_outside_is_cut_and_one_wholly_outside_refused(asked: str, given: str) -> None:
    """Silently: sched_setaffinity states nothing of the CPUs it leaves out."""

    def work() -> str:
        return outcome(lambda: THIS_PROCESS.set_affinity(0, CpuSet.parse(asked)) or THIS_PROCESS.get_affinity())

    assert confined(work, cpus="2-4") == given


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (MemoryPolicy(MemoryMode.BIND, NodeSet([1, 3])), "bind:1"),
        (MemoryPolicy(MemoryMode.PREFERRED_MANY, NodeSet([1, 3])), "preferred-many:1"),
        (MemoryPolicy(MemoryMode.INTERLEAVE, NodeSet([0, 1, 2, 3])), "interleave:1-2"),
        (MemoryPolicy(MemoryMode.PREFERRED, NodeSet([1])), "preferred:1"),
        (MemoryPolicy(MemoryMode.PREFERRED, NodeSet([3])), "EINVAL"),
        (MemoryPolicy(MemoryMode.BIND, NodeSet([3])), "EINVAL"),
        (MemoryPolicy(MemoryMode.PREFERRED_MANY, NodeSet([0, 3])), "EINVAL"),
    ],
    ids=str,
)
def test_a_policy_partly_outside_is_cut_and_one_wholly_outside_refused(policy: MemoryPolicy, kept: str) -> None:
    """And numa_maps, without a privilege, shows the same policy as get_mempolicy."""
    from affinity.kernel import procfs as kernel

    def work() -> list[str]:
        printed = outcome(lambda: THIS_PROCESS.set_mempolicy(policy) or THIS_PROCESS.get_mempolicy())
        return [printed, str(kernel.mempolicy_of_maps())]

    assert confined(work, mems="1-2") == [kept, "default" if kept == "EINVAL" else kept]


@pytest.mark.parametrize(("user", "number"), [(0, "EINVAL"), (UNPRIVILEGED, "EPERM")])
def test_moving_pages_outside_is_refused(user: int, number: str) -> None:
    """With one errno for that may move anybody's pages, and another for that may not, as we never do."""

    def work() -> list[str]:
        libc = ctypes.CDLL(None, use_errno=True)
        old, new = (ctypes.byref(ctypes.c_ulong(1 << node)) for node in (1, 3))
        assert libc.syscall(seccomp.NUMBERS[os.uname().machine]["migrate_pages"], 0, ctypes.c_ulong(65), old, new) < 0
        bare = errno.errorcode[ctypes.get_errno()]
        return [bare, outcome(lambda: THIS_PROCESS.migrate_pages(NodeSet([1]), NodeSet([3])))]

    assert confined(work, mems="1-2", user=user) == [number, "EPERM"]


@pytest.mark.parametrize("option", ["--membind=3", "--preferred=3", "--physcpubind=0"])
def test_numactl_states_out_of_range(option: str) -> None:
    """Where the kernel would have cut, numactl refuses: its own words reach the report."""

    def work() -> str | None:
        return THIS_PROCESS.check_command(["numactl", option, "--", "true"], 60)

    assert "out of range" in str(confined(work, cpus="2-5", mems="1-2"))


def test_numactl_finds_no_preferred_many_without_node_0() -> None:
    """It tries the call with a node that the cpuset lacks, and takes the refusal for an older kernel."""

    def work() -> str | None:
        return THIS_PROCESS.check_command(["numactl", "--preferred-many=1,2", "--", "true"], 60)

    assert "preferred-many requested without kernel support" in str(confined(work, cpus="2-5", mems="1-2"))


@changing
@pytest.mark.parametrize("left", ["3-7", "2-5", "2-3"])
@pytest.mark.parametrize("mask", [None, "6-7", "2-3", "2,6"])
def test_masks_of_a_cpuset_that_is_narrowed(mask: str | None, left: str) -> None:
    """Linux before 6.2 resets each to the cpuset, from then on it is cut; the simulation does both."""
    simulated = SimulatedKernel(
        Host.live().topology,
        cpuset=CpuSet.parse("2-7"),
        resets_masks=LINUX < (6, 2),
        mask=CpuSet.parse(mask) if mask else None,
    )
    simulated.narrow(cpuset=CpuSet.parse(left))

    def work() -> str:
        if mask:
            THIS_PROCESS.set_affinity(0, CpuSet.parse(mask))
        group = Path("/sys/fs/cgroup" + Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2])
        (group / "cpuset.cpus").write_text(left)
        return str(THIS_PROCESS.get_affinity())

    assert confined(work, cpus="2-7") == str(simulated.get_affinity())


# ---------------------------------------------------------------- what the framework makes of it


@pytest.fixture(autouse=True, scope="module")
def _loaded() -> None:
    """What a bind imports is imported before the forks, and once."""
    from affinity.kernel.libnuma import load

    load()
    affinity.plan(node=0)


@pytest.mark.parametrize("strategy", ["libnuma", "inherit", "legacy"])
def test_some_cpus_of_the_node(strategy: str) -> None:
    """Those that are allowed, and the node's memory."""
    reported = confined(lambda: bound(node=1, settings=Settings(strategies=(strategy,), required=True)), cpus="0,2,5-7")
    assert reported["error"] is None
    assert (reported["satisfied"], reported["printed"], reported["now"]) == (True, [], ["2", "preferred:1"])


@pytest.mark.parametrize("settings", [Settings(), REQUIRED], ids=["best-effort", "required"])
def test_no_cpu_of_the_node(settings: Settings) -> None:
    """Nothing is done, and it is printed what is missing; under `required` that is an error."""
    reported = confined(lambda: bound(node=1, settings=settings), cpus="4-7", mems="2-3")
    printed = reported["error"] or reported["reported"]
    assert "no CPU of node 1 (2-3) is allowed here (allowed: 4-7)" in printed
    assert bool(reported["error"]) is settings.required
    assert reported["now"] == ["4-7", "default"]


def test_the_nodes_cpus_and_the_memory_of_another_node_only() -> None:
    """CPUs are bound; memory is left to the kernel, which has one node to take it from; all of that is reported."""
    reported = confined(lambda: bound(node=1), cpus="2-3", mems="3")
    assert reported["now"] == ["2-3", "default"]
    assert reported["share"] is not None
    assert reported["share"] < 0.5
    assert "memory of node 1 is not allowed here (allowed: 3)" in reported["reported"]


@pytest.mark.parametrize("strategy", ["libnuma", "inherit"])
def test_several_nodes_without_node_0(strategy: str) -> None:
    """preferred-many is in force where numactl and libnuma trust that the kernel has none."""
    gpus = [str(g.address) for g in Host.live().topology.pci_devices if g.numa_node in (1, 3)]
    options = Settings(strategies=(strategy,), required=True)
    reported = confined(lambda: bound(gpu=gpus, settings=options), cpus="2-7", mems="1-3")
    assert (reported["error"], reported["now"]) == (None, ["2-3,6-7", "preferred-many:1,3"])


@pytest.mark.parametrize("strategy", ["numactl", "inherit"])
def test_a_worker_is_born_within_the_cpuset(strategy: str) -> None:
    """With the exact CPUs; the parent keeps its own."""
    look = "import os; print(*os.sched_getaffinity(0), open('/proc/self/numa_maps').readline().split()[1])"

    def work() -> list[Any]:
        with affinity.spawning(node=1, settings=Settings(strategies=(strategy,), required=True)):
            block = current_block()
            assert block is not None
            prepared = block.prepare("spawn")
            command = worker_command([sys.executable, "-I", "-S", "-c", look], prepared)
            with prepared.start.around():
                born = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
        return [born.strip(), *now()]

    assert confined(work, cpus="0,2,5-7", mems="0-2") == ["2 prefer:1", "0,2,5-7", "default"]


def test_a_worker_of_a_parent_under_taskset_or_numactl() -> None:
    """A mask set from outside is a limit, on every node; a memory policy set from outside is left alone."""
    reported = confined(lambda: bound(node=1), mask={1, 2})
    assert reported["now"] == ["2", "preferred:1"]
    reported = confined(lambda: bound(node=3), mask={1, 2})
    assert "no CPU of node 3 (6-7) is allowed here (allowed: 1-2)" in reported["reported"]
    assert reported["now"] == ["1-2", "default"]

    def under_membind() -> dict[str, Any]:
        THIS_PROCESS.set_mempolicy(MemoryPolicy(MemoryMode.BIND, NodeSet([0])))
        return bound(node=3)

    reported = confined(under_membind)
    assert reported["strategy"] == "noop"
    assert "already bound from outside: memory policy bind:0 is in force" in reported["reported"]
    assert reported["now"] == ["0-7", "bind:0"]


@pytest.mark.parametrize(("mask", "node", "cpus"), [({0, 2, 4, 6}, 1, "2"), ({2, 3, 6}, 3, "6"), ({2, 3}, 1, "2-3")])
def test_masks_as_slurm_deals_them(mask: set[int], node: int, cpus: str) -> None:
    """A CPU of each node (cyclic) or whole nodes (block): the task keeps those of its own GPU's node."""
    rank = [gpu.numa_node for gpu in Host.live().topology.pci_devices if gpu.vendor == 0x1002].index(node)

    def work() -> list[str]:
        report = affinity.bind()
        return [report.launch.mode.value, *now()]

    environ = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": str(rank), "SLURM_NTASKS_PER_NODE": "4"}
    assert confined(work, mask=mask, **environ) == ["slurm", cpus, f"preferred:{node}"]


@changing
def test_a_bound_process_moves_to_another_node_but_never_out_of_its_cpuset() -> None:
    """What it was bound to is no limit, what its cpuset allows is."""

    def work() -> list[Any]:
        stay = Settings(migrate=False)
        first, second = (bound(node=n, settings=stay)["now"] for n in (1, 3))
        return [first, second, bound(node=0, settings=stay)["reported"]]

    first, second, third = confined(work, cpus="2-7", mems="1-3")
    assert (first, second) == (["2-3", "preferred:1"], ["6-7", "preferred:3"])
    assert "no CPU of node 0 (0-1) is allowed here (allowed: 2-7)" in third


@changing
def test_a_cpuset_that_changed_after_a_bind_does_not_make_our_policy_an_outsiders() -> None:
    """The kernel leaves preferred:3, and a next bind acts all the same.

    Before Linux 6.2 each mask in the cpuset is reset to it, which shows the new limit. From then on the mask that was
    asked for is kept and cut: it is still ours, so that CPU 2 is found to be lost by the bind that asks for it.
    """

    def work() -> list[Any]:
        bound(node=3)
        group = Path("/sys/fs/cgroup" + Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2])
        (group / "cpuset.cpus").write_text("3-7")
        return [now(), *(bound(node=1, settings=REQUIRED) for _ in range(2))]

    changed, first, second = confined(work, cpus="2-7")
    if LINUX < (6, 2):
        assert changed == ["3-7", "preferred:3"]
        assert first["now"] == ["3", "preferred:1"]
    else:
        assert changed == ["6-7", "preferred:3"]
        assert "the kernel shows 3: 2 went offline or out of the cpuset" in first["error"]
        assert first["now"] == changed
    assert (second["error"], second["now"]) == (None, ["3", "preferred:1"])


# ---------------------------------------------------------------- between plan and bind


@changing
@pytest.mark.parametrize("required", [False, True], ids=["best-effort", "required"])
def test_a_cpu_goes_offline_between_plan_and_bind(required: bool) -> None:
    """The kernel takes the mask and shows the rest of it."""
    online = Path("/sys/devices/system/cpu/cpu3/online")

    def work() -> dict[str, Any]:
        seen_before = Host.live()
        online.write_text("0")
        try:
            return bound(node=1, host=seen_before, settings=Settings(required=required))
        finally:
            online.write_text("1")

    reported = confined(work)
    assert "the kernel shows 2: 3 went offline or out of the cpuset" in (reported["error"] or reported["reported"])
    if required:
        assert reported["now"] == ["0-2,4-7", "default"]
    else:
        assert (reported["satisfied"], reported["now"]) == (False, ["2", "preferred:1"])
    assert set(os.sched_getaffinity(0)) == set(range(8))


@changing
@pytest.mark.parametrize(("left", "now_"), [("4-7", ["4-7", "default"]), ("2,4-7", ["2", "preferred:1"])])
def test_a_cpuset_shrinks_between_plan_and_bind(left: str, now_: list[str]) -> None:
    """Wholly: EINVAL at every step, nothing in force and no exception. Partly: the rest, and it is printed."""

    def work() -> dict[str, Any]:
        seen_before = Host.live()
        group = Path("/sys/fs/cgroup" + Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2])
        (group / "cpuset.cpus").write_text(left)
        return bound(node=1, host=seen_before)

    reported = confined(work, cpus="2-7")
    assert (reported["error"], reported["satisfied"], reported["now"]) == (None, False, now_)
    found = reported["reported"]
    assert "[EINVAL]" in found or "the kernel shows 2: 3 went offline or out of the cpuset" in found
