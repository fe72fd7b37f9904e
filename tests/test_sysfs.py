"""A topology from sysfs files: what is read, what may be missing, and which file is at fault."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import affinity
from affinity import CpuSet, Host, NodeSet
from affinity.launchers import Launch, LaunchMode
from affinity.render import serialize
from affinity.topology import TopologyError, sysfs
from affinity.topology.archive import write_archive

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
    """A container may hide them; each node is then a package of its own, so that no other package's CPUs are taken."""
    cpus = sysfs.load(tree()).cpus
    assert [(c.core, c.l3, c.package) for c in cpus.values()] == [(i, i, i // 2) for i in range(4)]


def _topology_files(**lists: dict[int, str]) -> dict[str, str | None]:
    return {
        f"devices/system/cpu/cpu{cpu}/topology/{name}": text for name, of in lists.items() for cpu, text in of.items()
    }


@pytest.mark.parametrize(
    ("siblings", "packages"),
    [
        ({"core_siblings_list": {0: "0,2", 1: "1,3"}}, [0, 1, 0, 1]),
        ({"package_cpus_list": {0: "0-3"}}, [0, 0, 0, 0]),
        ({"core_siblings": {0: "00000005", 1: "0000000a"}}, [0, 1, 0, 1]),
        ({}, [0, 0, 1, 1]),
    ],
    ids=["lists", "new name", "masks", "none: by node"],
)
def test_a_package_id_of_minus_one_is_unknown(
    tree: Tree, siblings: dict[str, dict[int, str]], packages: list[int]
) -> None:
    """As on POWER7 and s390: the package's CPUs are read instead; one package would be the whole machine."""
    files = _topology_files(physical_package_id=dict.fromkeys(range(4), "-1"), **siblings)
    assert [c.package for c in sysfs.load(tree(files)).cpus.values()] == packages


def test_a_package_without_a_number_is_numbered_after_those_that_have_one(tree: Tree) -> None:
    """So that no two packages are taken for one."""
    files = _topology_files(physical_package_id={0: "7", 2: "-1"}, package_cpus_list={0: "0-1", 2: "2-3"})
    assert [c.package for c in sysfs.load(tree(files)).cpus.values()] == [7, 7, 8, 8]


def test_policy_socket_on_a_machine_with_unknown_packages_keeps_to_the_node(tree: Tree) -> None:
    """As on a POWER7, where all of the machine's CPUs were one package."""
    files = _topology_files(
        physical_package_id=dict.fromkeys(range(4), "-1"), core_siblings_list={0: "0", 1: "1", 2: "2", 3: "3"}
    )
    planned = affinity.plan(node=1, host=Host.from_root(tree(files)), settings=affinity.Settings(policy="socket"))
    assert planned.placement is not None
    assert str(planned.placement.cpus) == "2-3"


@pytest.mark.parametrize("siblings", ["1-2", "", "0,9"], ids=["others", "none", "not there"])
@pytest.mark.parametrize("name", ["thread_siblings_list", "thread_siblings"])
def test_siblings_that_are_not_of_the_cpu_or_of_the_machine_are_named(tree: Tree, siblings: str, name: str) -> None:
    """Instead of a KeyError."""
    text = f"{CpuSet.parse(siblings).bits:08x}" if name == "thread_siblings" else siblings
    topology = sysfs.load(tree(_topology_files(**{name: {0: text}})))
    with pytest.raises(TopologyError, match=rf"cpu0/topology/thread_siblings.*CPUs {siblings or 'none'} found"):
        topology.cpus  # noqa: B018


def test_a_sibling_that_is_offline_is_no_error(tree: Tree) -> None:
    """Its directory is there, and CPU 0 is its core alone."""
    files = _topology_files(thread_siblings_list={0: "0,1"})
    files |= {"devices/system/cpu/online": "0,2-3", "devices/system/cpu/cpu1/online": "0"}
    assert sysfs.load(tree(files)).cpus[0].core == 0


@pytest.mark.parametrize(
    ("files", "online"),
    [
        ({"cpu1/online": "0", "cpu3/online": "1"}, "0,2-3"),
        ({"cpu1/online": "", "cpu2/online": "0"}, "0-1,3"),
    ],
    ids=["0 is off", "an empty file is on"],
)
def test_old_kernels_list_offline_cpus_in_each_cpus_own_file(tree: Tree, files: dict[str, str], online: str) -> None:
    """Without `cpu/online`; a CPU that cannot be switched off has no such file."""
    changes: dict[str, str | None] = {f"devices/system/cpu/cpu{i}/topology/core_id": "0" for i in range(4)}
    changes |= {f"devices/system/cpu/{name}": text for name, text in files.items()}
    topology = sysfs.load(tree({**changes, "devices/system/cpu/online": None}))
    assert str(topology.online) == online
    assert sorted(topology.cpus) == list(CpuSet.parse(online))
    assert str(topology.nodes[0].cpus | topology.nodes[1].cpus) == online


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


def test_the_bridge_above_shows_what_the_device_does_not(tree: Tree) -> None:
    """A virtual machine's GPU states -1, its root port may find."""
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


@pytest.mark.parametrize("row", ["20", "20 far", "", "20 10 10"])
def test_a_bad_distance_row_costs_its_own_node_alone(tree: Tree, row: str) -> None:
    """The rest is shown, with a note that names the file."""
    host = Host.from_root(tree({"devices/system/node/node1/distance": row}))
    shown = serialize.machine(host, Launch(LaunchMode.INLINE))
    assert [node["distances"] for node in shown["nodes"]] == [{"0": 10, "1": 20}, {}]
    (note,) = shown["notes"]
    assert "node1/distance" in note
    assert "the distances of node 1 are ignored" in note
    assert host.topology.nearest(1, NodeSet([0])) == NodeSet([0])


def test_cpus_of_a_node_that_is_offline_are_online_all_the_same(tree: Tree) -> None:
    """They belong to no node, and are neither hidden nor given to another one."""
    topology = sysfs.load(tree({"devices/system/node/online": "1"}))
    assert (str(topology.online), str(topology.nodeless)) == ("0-3", "0-1")
    assert [(n.id, str(n.cpus)) for n in topology.nodes] == [(1, "2-3")]
    assert sorted(topology.cpus) == [0, 1, 2, 3]


def test_nodes_may_share_their_cpus(tree: Tree) -> None:
    """As a kernel with `numa=fake` shows them."""
    topology = sysfs.load(tree({f"devices/system/node/node{i}/cpulist": "0-3" for i in range(2)}))
    assert [str(n.cpus) for n in topology.nodes] == ["0-3", "0-3"]
    assert topology.nodes_of(CpuSet([0])) == NodeSet([0, 1]) == topology.sharing_nodes(1)
    assert topology.nodes_of(CpuSet([0]), NodeSet([1])) == NodeSet([1])


def test_a_machine_without_shared_cpus_has_one_node_a_cpu_whatever_is_chosen(tree: Tree) -> None:
    """A choice matters among nodes that share CPUs alone."""
    topology = sysfs.load(tree())
    for chosen in (None, NodeSet([0]), NodeSet([1]), NodeSet([7])):
        assert topology.nodes_of(CpuSet([1, 2]), chosen) == NodeSet([0, 1])
        assert topology.nodes_of(CpuSet([1]), chosen) == NodeSet([0])
    assert topology.sharing_nodes(1) == NodeSet([1])
    assert topology.sharing_nodes(7) == NodeSet([7])


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        (("access0/initiators/node1",), "1"),
        (("access0/initiators/node2", "access1/initiators/node1"), "1"),
        (("access0/initiators/node1", "access1/initiators/node0"), "1"),
        (("access0/initiators/read_latency", "access0/initiators/nodes"), ""),
    ],
    ids=["access0", "CPUs before devices", "itself is none", "other files"],
)
def test_initiators_of_a_node(tree: Tree, links: tuple[str, ...], expected: str) -> None:
    """`access1` names CPUs alone, `access0` may name a device that is faster."""
    topology = sysfs.load(tree({f"devices/system/node/node0/{link}": "" for link in links}))
    assert str(topology.initiators.get(0, NodeSet())) == expected
    assert 1 not in topology.initiators


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
    with pytest.raises(TopologyError, match="sys/devices/system/cpu"):
        write_archive(str(tmp_path / "m.tar.gz"), str(tmp_path))


def test_a_captured_status_states_what_is_allowed(tree: Tree) -> None:
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


def test_exhausted_descriptors_are_an_error_that_names_the_file_and_the_limit(
    python: Callable[..., subprocess.CompletedProcess[str]], tree: Tree
) -> None:
    """Of this machine and of a captured one."""
    text = """
import os, resource, sys
from affinity import AffinityError, Host
resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0) + 1,) * 2)
for ask in (Host.live, lambda: Host.from_root(sys.argv[1])):
    try:
        ask()
    except AffinityError as error:
        print(error)
"""
    live, captured = python(text, tree()).stdout.splitlines()
    assert live.startswith("/sys/devices/system/")
    assert "proc/self/status" in captured
    for printed in (live, captured):
        assert "Too many open files; expected a readable file: raise the limit on open files (ulimit -n)" in printed
