"""A topology from sysfs files: what is read, what may be missing, and which file is at fault."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from affinity import CpuSet, Host, NodeSet
from affinity.topology import TopologyError, sysfs

Tree = Callable[..., str]

TWO_NODES = {
    "devices/system/node/online": "0-1",
    "devices/system/node/has_memory": "0-1",
    "devices/system/node/node0/cpulist": "0-1",
    "devices/system/node/node0/distance": "10 20",
    "devices/system/node/node0/meminfo": "Node 0 MemTotal:  1024 kB\nNode 0 MemFree: 3 kB",
    "devices/system/node/node1/cpulist": "2-3",
    "devices/system/node/node1/distance": "20 10",
    "devices/system/node/node1/meminfo": "Node 1 MemTotal:  2048 kB",
    "devices/system/cpu/online": "0-3",
}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Write the two-node machine with changes; a value of None leaves the file out."""

    def write(changes: dict[str, str | None] | None = None, base: dict[str, str] = TWO_NODES) -> str:
        for name, text in {**base, **(changes or {})}.items():
            if text is not None:
                path = tmp_path / "sys" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(text.encode() + b"\n")
        return str(tmp_path)

    return write


def test_nodes_distances_and_memory(tree: Tree) -> None:
    """The files of a plain machine."""
    t = sysfs.load(tree())
    assert [(n.id, str(n.cpus), n.has_memory) for n in t.nodes] == [(0, "0-1", True), (1, "2-3", True)]
    assert t.distances == {0: {0: 10, 1: 20}, 1: {0: 20, 1: 10}}
    assert t.memory == {0: 1 << 20, 1: 2 << 20}
    assert t.nearest(0, NodeSet([1])) == NodeSet([1])


def test_cpumap_stands_in_for_cpulist(tree: Tree) -> None:
    """Old kernels have the mask only."""
    t = sysfs.load(tree({"devices/system/node/node1/cpulist": None, "devices/system/node/node1/cpumap": "0000000c"}))
    assert t.by_id[1].cpus == CpuSet([2, 3])


def test_nul_terminated_files(tree: Tree) -> None:
    """Some kernels end a file in NUL."""
    t = sysfs.load(
        tree({"devices/system/node/node0/cpulist": "0-1\0", "devices/system/node/node0/distance": "10 20\0"})
    )
    assert t.by_id[0].cpus == CpuSet([0, 1])
    assert t.distances[0][1] == 20


def test_sparse_and_offline_nodes(tree: Tree) -> None:
    """Node numbers have gaps; a node that is not online is not there."""
    changes = {
        "devices/system/node/online": "0,8",
        "devices/system/node/has_memory": "0,8",
        "devices/system/node/node8/cpulist": "2-3",
        "devices/system/node/node8/distance": "40 10",
        "devices/system/node/node0/distance": "10 40",
        "devices/system/node/node1/cpulist": "",
    }
    t = sysfs.load(tree(changes))
    assert [n.id for n in t.nodes] == [0, 8]
    assert t.distances[0] == {0: 10, 8: 40}


def test_offline_cpus_are_left_out(tree: Tree) -> None:
    """A CPU that is switched off is no place to run."""
    t = sysfs.load(tree({"devices/system/cpu/online": "0,2-3"}))
    assert t.by_id[0].cpus == CpuSet([0])
    assert t.online == CpuSet([0, 2, 3])


def test_memoryless_node(tree: Tree) -> None:
    """From has_memory, and from meminfo where that file is missing."""
    assert sysfs.load(tree({"devices/system/node/has_memory": "0"})).memory_nodes == NodeSet([0])


def test_memoryless_node_from_meminfo(tree: Tree) -> None:
    """Kernels before has_memory."""
    changes = {"devices/system/node/has_memory": None, "devices/system/node/node1/meminfo": "Node 1 MemTotal: 0 kB"}
    base = {k: v for k, v in TWO_NODES.items() if k != "devices/system/node/has_memory"}
    assert sysfs.load(tree({k: v for k, v in changes.items() if v}, base)).memory_nodes == NodeSet([0])


def test_a_kernel_without_numa_is_one_implicit_node(tree: Tree) -> None:
    """No node directory: node 0 with every online CPU."""
    t = sysfs.load(tree(base={"devices/system/cpu/online": "0-7"}))
    assert [(n.id, str(n.cpus)) for n in t.nodes] == [(0, "0-7")]
    assert t.distances == {}
    assert t.nearest(0, NodeSet([0])) == NodeSet([0])


def test_cores_caches_and_packages_are_read_when_asked(tree: Tree) -> None:
    """Siblings of a core, CPUs of an L3 domain, the package; one file a group, not one a CPU."""
    files: dict[str, str | None] = {}
    for cpu in range(4):
        top = f"devices/system/cpu/cpu{cpu}"
        files[f"{top}/topology/thread_siblings_list"] = "0,2" if cpu in (0, 2) else "1,3"
        files[f"{top}/topology/physical_package_id"] = "1"
        files[f"{top}/topology/package_cpus_list"] = "0-3"
        files[f"{top}/cache/index0/level"] = "1"
        files[f"{top}/cache/index3/level"] = "3"
        files[f"{top}/cache/index3/shared_cpu_list"] = "0-3"
    cpus = sysfs.load(tree(files)).cpus
    assert [(c.core, c.l3, c.package) for _, c in sorted(cpus.items())] == [(0, 0, 1), (1, 0, 1), (0, 0, 1), (1, 0, 1)]


def test_cpus_without_topology_files_are_their_own_cores(tree: Tree) -> None:
    """A container may hide them."""
    cpus = sysfs.load(tree()).cpus
    assert [(c.core, c.l3, c.package) for c in cpus.values()] == [(i, i, 0) for i in range(4)]


def _gpu(tree: Tree, *, numa: str, bridge: str | None = None, **files: str) -> str:
    root = tree()
    bus = Path(root, "sys/devices/pci0000:10/0000:10:00.0/0000:11:00.0")
    bus.mkdir(parents=True)
    facts = {
        "class": "0x030200",
        "vendor": "0x10de",
        "device": "0x2330",
        "numa_node": numa,
        "local_cpulist": "",
        **files,
    }
    for name, text in facts.items():
        (bus / name).write_text(text + "\n")
    if bridge is not None:
        (bus.parent / "numa_node").write_text(bridge)
        (bus.parent / "local_cpulist").write_text("2-3")
    links = Path(root, "sys/bus/pci/devices")
    links.mkdir(parents=True)
    (links / "0000:11:00.0").symlink_to(os.path.relpath(bus, links))
    return root


def test_pci_devices(tree: Tree) -> None:
    """Class, vendor and node; -1 is unknown, never node 0."""
    (device,) = sysfs.load(_gpu(tree, numa="-1")).pci_devices
    assert (str(device.address), device.vendor, device.numa_node) == ("0000:11:00.0", 0x10DE, None)


def test_the_bridge_above_tells_what_the_device_does_not(tree: Tree) -> None:
    """A virtual machine's GPU says -1, its root port may know."""
    (device,) = sysfs.load(_gpu(tree, numa="-1", bridge="1")).pci_devices
    assert device.bridge_cpus == CpuSet([2, 3])


def test_devices_of_other_classes_are_not_listed(tree: Tree) -> None:
    """A network card is no GPU."""
    assert sysfs.load(_gpu(tree, numa="0", **{"class": "0x020000"})).pci_devices == ()


@pytest.mark.parametrize(
    ("file", "text", "ask"),
    [
        ("devices/system/node/node1/cpulist", "2-x", "nodes"),
        ("devices/system/node/online", "zero", "nodes"),
        ("devices/system/cpu/online", "0-99999999", "nodes"),
        ("devices/system/node/node1/distance", "20", "distances"),
        ("devices/system/node/node0/distance", "10 far", "distances"),
        ("devices/system/node/node1/meminfo", "nothing here", "memory"),
        ("devices/system/node/node1/meminfo", "Node 1 MemTotal:", "memory"),
        ("devices/system/cpu/cpu0/topology/physical_package_id", "one", "cpus"),
    ],
)
def test_a_malformed_file_is_named(tree: Tree, file: str, text: str, ask: str) -> None:
    """Whichever fact is asked for."""
    root = tree({file: text})
    with pytest.raises(TopologyError, match=file):
        getattr(sysfs.load(root), ask)


def test_a_cpu_in_two_nodes_is_refused(tree: Tree) -> None:
    """Files that contradict each other."""
    with pytest.raises(TopologyError, match=r"node1: CPUs 1 are in another node too"):
        sysfs.load(tree({"devices/system/node/node1/cpulist": "1-3"}))


def test_a_node_without_cpu_files_is_refused(tree: Tree) -> None:
    """Neither cpulist nor cpumap."""
    with pytest.raises(TopologyError, match="neither cpulist nor cpumap"):
        sysfs.load(tree({"devices/system/node/node2/distance": "1", "devices/system/node/online": "0-2"}))


def test_an_empty_root_is_refused(tmp_path: Path) -> None:
    """Both with and without sys/."""
    with pytest.raises(TopologyError, match="no directory 'sys'"):
        Host.from_root(str(tmp_path))
    (tmp_path / "sys").mkdir()
    with pytest.raises(TopologyError, match="no CPU found"):
        Host.from_root(str(tmp_path))


def test_a_captured_status_says_what_is_allowed(tree: Tree) -> None:
    """And the caller's word goes over it."""
    root = tree()
    status = Path(root, "proc/self/status")
    status.parent.mkdir(parents=True)
    status.write_text("Name:\tx\nCpus_allowed_list:\t0,2\nMems_allowed_list:\t0\n")
    host = Host.from_root(root)
    assert (host.allowed_cpus, host.allowed_nodes) == (CpuSet([0, 2]), NodeSet([0]))
    assert Host.from_root(root, allowed_cpus=CpuSet([3])).allowed_cpus == CpuSet([3])
    status.write_text("Cpus_allowed_list:\tmany\n")
    with pytest.raises(TopologyError, match="proc/self/status"):
        Host.from_root(root)


def test_this_machine_agrees_with_the_kernel() -> None:
    """The live topology has the CPUs this process may run on."""
    live = Host.live()
    assert CpuSet(os.sched_getaffinity(0)) <= live.topology.online
    assert live.allowed_nodes <= NodeSet(live.topology.by_id)
    assert set(live.topology.cpus) == set(live.topology.online)
