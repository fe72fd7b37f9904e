"""Named machines and their trees: what is written is what is read, in every dialect of sysfs."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

import affinity
from affinity import CpuSet, Host, NodeSet, UsageError
from affinity.api import plan_each
from affinity.testing import FakeHost, machines, trees
from affinity.testing.machines import Machine, MachineNode, Smt
from affinity.topology import Topology, sysfs

#: The nodes that vendors and users report, GPU by GPU, in PCI order.
GPU_NODES = {
    "dgx-h100": (0, 0, 0, 0, 1, 1, 1, 1),
    "dgx-a100": (3, 3, 1, 1, 7, 7, 5, 5),
    "azure-ndv4": (1, 1, 0, 0, 3, 3, 2, 2),
    "gb200": (0, 0, 1, 1),
    "gh200": (0,),
    "power9-ac922": (0, 0, 0, 8, 8, 8),
    "mi250x": (3, 3, 1, 1, 0, 0, 2, 2),
    "vm-one-node": (0, 0),
    "vm-two-nodes": (None, None, None, None),
    "numa-fake": (0, 2),
    "vm-known-bridge": (0, 1),
    "dgx-2": (0,) * 8 + (1,) * 8,
    "vm-one-gpu": (0,),
    "hgx-b200-snc3": (0, 0, 2, 2, 3, 3, 5, 5),
    "workstation": (1, 0, 0, 0, 0),
    "epyc-nps4-descending": (3, 2, 1, 0, 7, 6, 5, 4),
}

DIALECTS: dict[str, dict[str, bool]] = {"plain": {}, "nul": {"nul": True}, "masks": {"lists": False}}


def facts(topology: Topology) -> list[object]:
    memory = [topology.distances, topology.initiators, topology.memory]
    devices = [topology.pci_devices, topology.nics, topology.pci_paths]
    return [topology.nodes, *memory, topology.cpus, topology.caches, *devices]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.affinity_machines("gb200", "vm-known-bridge", "azure-ndv2", "laptop", "numa-fake", "aws-p4d")
def test_a_tree_states_what_the_machine_states(machine: Machine, dialect: str, tmp_path: Path) -> None:
    """Written and read back, with newlines, with NUL at the end, and with masks in place of lists."""
    root = trees.write(machine, tmp_path, **DIALECTS[dialect])
    read = sysfs.load(f"{root}/")
    assert facts(read) == facts(machine.topology())
    assert read.free_memory == machine.topology().free_memory


@pytest.mark.affinity_machines("power9-ac922", "knl-snc4-flat")
def test_a_tree_of_a_machine_with_four_threads_a_core_is_the_machine(machine: Machine, tmp_path: Path) -> None:
    """Side by side on one, dealt out on the other, which has no L3 besides."""
    assert facts(sysfs.load(f"{trees.write(machine, tmp_path)}/")) == facts(machine.topology())


def with_gpu_memory(machine: Machine) -> Machine:
    """The machine with its firmware's initiators and its driver's numa_status, as far as it has GPU memory nodes."""
    memory = [n.id for n in machine.nodes if n.memory and not n.cpus]
    gpus = tuple(attrs.evolve(g, memory_node=m) for g, m in zip(machine.gpus, reversed(memory), strict=False))
    cpu_nodes = [n.id for n in machine.nodes if n.cpus]
    nodes = tuple(
        attrs.evolve(n, initiators=NodeSet([cpu_nodes[n.package > 0]])) if n.id in memory else n for n in machine.nodes
    )
    return attrs.evolve(machine, nodes=nodes, gpus=gpus)


@pytest.mark.affinity_machines("gb200", "power9-ac922")
def test_a_tree_has_the_initiators_and_the_gpus_memory(machine: Machine, tmp_path: Path) -> None:
    """Also where every node has another number."""
    for i, wanted in enumerate((with_gpu_memory(machine), trees.sparse(with_gpu_memory(machine), 2))):
        root = trees.write(wanted, tmp_path / str(i))
        assert facts(sysfs.load(f"{root}/")) == facts(wanted.topology())
        assert wanted.topology().initiators
        assert all(device.memory_node is not None for device in wanted.topology().pci_devices)


@pytest.mark.parametrize(("name", "nodes"), GPU_NODES.items())
def test_every_gpu_is_on_the_node_that_is_reported(name: str, nodes: tuple[int | None, ...]) -> None:
    """Through device provider, evidence and node."""
    host = FakeHost(name).host
    assert tuple(gpu.node for gpu in affinity.plan(gpu="all", host=host).launch.gpus) == nodes


def test_there_are_twenty_machines_and_each_has_a_source() -> None:
    """A machine is as published by another program that is named, or printed to be a shape only."""
    assert len(machines.names()) >= 20
    for name in machines.names():
        source = machines.get(name).source
        assert "As published" in source or "Shape only" in source, name
        assert machines.get(name).name == name


def test_machines_contradict_themselves_nowhere(machine: Machine) -> None:
    """No CPU in two nodes, distances for every pair, GPUs of one address or node that exist."""
    topology = machine.topology()
    if machine.name != "numa-fake":
        assert sum(len(n.cpus) for n in topology.nodes) == len(topology.online)
    assert len({d.address for d in topology.pci_devices}) == len(topology.pci_devices)
    ids = NodeSet(topology.by_id)
    assert all(gpu.node is None or gpu.node in ids for gpu in machine.gpus)
    assert all(set(row) == set(ids) for row in topology.distances.values())
    assert [gpu.pci for gpu in machine.gpus] == sorted(gpu.pci for gpu in machine.gpus)
    cores = {cpu.core for cpu in topology.cpus.values()}
    assert len(cores) * machine.threads == len(topology.online)


def test_published_cpu_lists_come_out() -> None:
    """As `nvidia-smi topo -m` and NCCL's files show them."""
    lists = {name: [str(n.cpus) for n in machines.load(name).nodes if n.cpus] for name in machines.names()}
    assert lists["dgx-h100"] == ["0-55,112-167", "56-111,168-223"]
    assert lists["dgx-1"] == ["0-19,40-59", "20-39,60-79"]
    assert lists["aws-p4d"] == ["0-23,48-71", "24-47,72-95"]
    assert lists["dgx-a100"][3] == "48-63,176-191"
    assert lists["gb200"] == ["0-71", "72-143"]
    assert lists["mi300a"][:2] == ["0-23,96-119", "24-47,120-143"]


def test_sparse_node_numbers_move_every_reference(tmp_path: Path) -> None:
    """GPUs stay beside the same CPUs when nodes are numbered 0, 4, 8, 12."""
    before, after = machines.get("azure-ndv4"), trees.sparse(machines.get("azure-ndv4"))
    host = Host.from_root(trees.write(after, tmp_path))
    assert [n.id for n in host.topology.nodes] == [0, 4, 8, 12]
    plans = [p.placement.cpus for p in plan_each(host=host) if p.placement]
    assert plans == [before.local_cpus(gpu.node) for gpu in before.gpus]


def test_wide_pci_domains_keep_their_nodes(tmp_path: Path) -> None:
    """A domain of more than four digits is an address like any other."""
    machine = trees.wide_domains(machines.get("dgx-h100"))
    gpus = affinity.plan(gpu="all", host=Host.from_root(trees.write(machine, tmp_path))).launch.gpus
    assert str(gpus[0]) == "10000:1b:00.0"
    assert tuple(gpu.node for gpu in gpus) == GPU_NODES["dgx-h100"]


def test_offline_cpus_are_in_no_node_and_name_no_core(tmp_path: Path) -> None:
    """CPU 0 switched off: its sibling is the core's lowest CPU now."""
    machine = attrs.evolve(machines.get("dgx-h100"), offline=CpuSet([0, 55, 56]))
    topology = Host.from_root(trees.write(machine, tmp_path)).topology
    assert facts(topology) == facts(machine.topology())
    assert str(topology.nodes[0].cpus) == "1-54,112-167"
    assert topology.cpus[112].core == 112


def test_smt_siblings_are_numbered_as_the_machine_states() -> None:
    """Split: c and c+N. Adjacent: side by side."""
    nodes = (MachineNode(0, CpuSet(range(8)), 1 << 30),)
    split = Machine(nodes=nodes, threads=2).cpus
    adjacent = Machine(nodes=nodes, threads=2, smt=Smt.ADJACENT).cpus
    assert [cpu.core for cpu in split.values()] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert [cpu.core for cpu in adjacent.values()] == [0, 0, 2, 2, 4, 4, 6, 6]


def test_load_takes_names_lines_and_directories(tmp_path: Path) -> None:
    """And states what is near a name that is none."""
    assert len(machines.load("pack:2 core:4").online) == 8
    assert len(machines.load(trees.write(machines.get("gh200"), tmp_path)).nodes) == 9
    with pytest.raises(UsageError, match="dgx-h100"):
        machines.load("dgxh100")


def table() -> str:
    """The rows of docs/reference/machines.md."""
    rows = []
    for name in machines.names():
        machine = machines.get(name)
        nodes = NodeSet(n.id for n in machine.nodes)
        gpus = ",".join("-1" if node is None else str(node) for node in machine.gpu_nodes) or "no GPU"
        rows.append(f"| `{name}` | {nodes} | {machine.present} | {gpus} | {machine.source} |")
    return "\n".join(rows)


def test_the_reference_page_has_every_machine() -> None:
    """With its nodes, CPUs, GPUs and source."""
    assert table() in (Path(__file__).parent.parent / "docs/reference/machines.md").read_text()
