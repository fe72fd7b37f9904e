"""Which node a GPU is next to."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import affinity
from affinity import CpuSet, Host, NodeSet
from affinity.devices import Gpu, NodeEvidence, NodeSource
from affinity.devices.numa_node import assign_node
from affinity.testing import machines, trees
from affinity.topology import PciAddress

TWO = machines.load("pack:2 numa:1 core:4")
GB200 = machines.load("gb200")
POWER9 = machines.load("power9-ac922")


def on(topology, *evidence: NodeEvidence) -> tuple[int | None, str]:
    found = assign_node(Gpu(PciAddress(0, 1, 0, 0), "nvidia", evidence=evidence), topology)
    return found.node, found.node_reason


def nodes(source: NodeSource, text: str) -> NodeEvidence:
    return NodeEvidence(source, nodes=NodeSet.parse(text))


def cpus(source: NodeSource, text: str) -> NodeEvidence:
    return NodeEvidence(source, cpus=CpuSet.parse(text))


STRONGEST_FIRST = (
    nodes(NodeSource.OPERATOR, "1"),
    nodes(NodeSource.PCI_NUMA_NODE, "1"),
    nodes(NodeSource.NVML_MEMORY, "1"),
    cpus(NodeSource.NVML_CPU, "4-7"),
    cpus(NodeSource.NVML_SOCKET, "4-7"),
    cpus(NodeSource.PCI_LOCAL, "4-7"),
    cpus(NodeSource.PCI_BRIDGE, "4-7"),
)


@settings(deadline=None)
@given(st.permutations(range(len(STRONGEST_FIRST))), st.integers(0, len(STRONGEST_FIRST) - 1))
def test_the_strongest_source_wins_in_whatever_order_they_are_reported(order: list[int], strongest: int) -> None:
    """The sources from `strongest` on state node 1, but all weaker than it state node 0."""
    reported = [
        STRONGEST_FIRST[i] if i == strongest else nodes(STRONGEST_FIRST[i].source, "0") for i in order if i >= strongest
    ]
    node, why = on(TWO, *reported)
    assert node == 1
    assert why.startswith(f"from {STRONGEST_FIRST[strongest].source.label}")
    assert why.count("has node 0") == len(reported) - 1


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ((nodes(NodeSource.PCI_NUMA_NODE, "1"),), (1, "from PCI numa_node")),
        (
            (nodes(NodeSource.NVML_MEMORY, "0-1"), cpus(NodeSource.NVML_CPU, "4-7")),
            (1, "from NVML CPU affinity (CPUs 4-7)"),
        ),
        (
            (nodes(NodeSource.PCI_NUMA_NODE, "0"), nodes(NodeSource.NVML_MEMORY, "1")),
            (0, "from PCI numa_node; but NVML memory affinity has node 1"),
        ),
        ((nodes(NodeSource.PCI_NUMA_NODE, "0"), nodes(NodeSource.NVML_MEMORY, "0-1")), (0, "from PCI numa_node")),
        (
            (nodes(NodeSource.PCI_NUMA_NODE, "7"), nodes(NodeSource.NVML_MEMORY, "1")),
            (1, "from NVML memory affinity; but PCI numa_node has node 7, online are 0-1"),
        ),
        ((), (None, "unknown: no source has its node (set AFFINITY_NODES)")),
        (
            (cpus(NodeSource.NVML_CPU, "0-7"),),
            (
                None,
                "unknown: NVML CPU affinity (CPUs 0-7) names nodes 0-1, which decides nothing (set AFFINITY_NODES)",
            ),
        ),
        (
            (cpus(NodeSource.NVML_CPU, "400"),),
            (None, "unknown: NVML CPU affinity (CPUs 400) are on no node here (set AFFINITY_NODES)"),
        ),
        (
            (NodeEvidence(NodeSource.NVML_MEMORY, problem="Not Supported"), cpus(NodeSource.PCI_BRIDGE, "0-3")),
            (0, "from CPUs local to its PCI bridge (CPUs 0-3)"),
        ),
    ],
)
def test_evidence_decides_or_states_why_it_does_not(
    evidence: tuple[NodeEvidence, ...], expected: tuple[int | None, str]
) -> None:
    """Several nodes with CPUs decide nothing, and unknown is never node 0."""
    assert on(TWO, *evidence) == expected


def test_a_machine_of_one_node_needs_no_evidence() -> None:
    """There is nothing else to be next to."""
    assert on(machines.load("core:4")) == (0, "the only node with CPUs")


def test_a_node_without_cpus_resolves_to_the_nearest_with_cpus() -> None:
    """As where PCI names a GPU's memory; numbers are sparse on POWER9."""
    assert on(GB200, nodes(NodeSource.PCI_NUMA_NODE, "2")) == (
        0,
        "nearest node with CPUs to memory node 2 (PCI numa_node)",
    )
    assert on(GB200, nodes(NodeSource.GPU_MEMORY, "18")) == (1, "nearest node with CPUs to GPU memory node 18")
    assert on(POWER9, nodes(NodeSource.PCI_NUMA_NODE, "8")) == (8, "from PCI numa_node")


def test_a_node_equally_near_to_two_decides_nothing() -> None:
    """POWER9's distances to GPU memory are all the same."""
    node, why = on(POWER9, nodes(NodeSource.GPU_MEMORY, "252"))
    assert node is None
    assert "nodes 0,8 are equally near to GPU memory node 252" in why


def test_initiators_decide_where_distances_tie() -> None:
    """The firmware's own word of that uses a memory node, before distances; a device among them has no CPUs."""
    machine = machines.get("power9-ac922")
    initiators = {252: "8", 253: "0,250", 254: "250", 255: "0,8"}
    memory = tuple(
        attrs.evolve(n, initiators=NodeSet.parse(initiators[n.id])) if n.id in initiators else n for n in machine.nodes
    )
    topology = attrs.evolve(machine, nodes=memory).topology()
    assert on(topology, nodes(NodeSource.GPU_MEMORY, "252")) == (8, "the initiator of GPU memory node 252")
    assert on(topology, nodes(NodeSource.PCI_NUMA_NODE, "253")) == (
        0,
        "the initiator of memory node 253 (PCI numa_node)",
    )
    for undecided in ("254", "255", "252-253"):
        node, why = on(topology, nodes(NodeSource.GPU_MEMORY, undecided))
        assert node is None
        assert f"nodes 0,8 are equally near to GPU memory node {undecided}" in why


def test_initiators_go_before_distances_that_state_otherwise() -> None:
    """Distances are nearest for node 0, the initiator is node 1."""
    machine = machines.get("gb200")
    memory = tuple(attrs.evolve(n, initiators=NodeSet([1])) if n.id == 2 else n for n in machine.nodes)
    topology = attrs.evolve(machine, nodes=memory).topology()
    assert topology.nearest(2, topology.cpu_nodes) == NodeSet([0])
    assert on(topology, nodes(NodeSource.GPU_MEMORY, "2"))[0] == 1
    assert on(topology, nodes(NodeSource.GPU_MEMORY, "2-3"))[0] is None  # node 3 has distances alone, and is near to 0
    assert on(topology, nodes(NodeSource.GPU_MEMORY, "3")) == (0, "nearest node with CPUs to GPU memory node 3")
    memory = tuple(attrs.evolve(n, initiators=NodeSet([0])) if n.id == 2 else n for n in machine.nodes)
    topology = attrs.evolve(machine, nodes=memory).topology()
    assert on(topology, nodes(NodeSource.GPU_MEMORY, "2-3")) == (0, "nearest node with CPUs to GPU memory node 2-3")


def test_cpus_of_nodes_that_share_them_decide_nothing() -> None:
    """A node number does: it is one of them."""
    fake = machines.load("numa-fake")
    node, why = on(fake, cpus(NodeSource.NVML_CPU, "0-3"))
    assert node is None
    assert "names nodes 0-3, which decides nothing" in why
    assert on(fake, nodes(NodeSource.PCI_NUMA_NODE, "2"))[0] == 2


@pytest.mark.parametrize(
    ("status", "memory_node"),
    [
        ("Node:      255\nStatus:    online\nAddress:   40000000000", 255),
        ("Node:      255\nStatus:    offline", None),
        ("Node:      -1\nStatus:    online", None),
        ("Status:    disabled", None),
        ("", None),
    ],
)
def test_nvidias_numa_status_names_the_gpus_own_memory(status: str, memory_node: int | None, tmp_path: Path) -> None:
    """In a capture as on this machine; it is evidence of what the node is near to, and never the node."""
    machine = machines.get("power9-ac922")
    gpu = attrs.evolve(machine.gpus[0], node=None, bridge_node=None)
    memory = tuple(attrs.evolve(n, initiators=NodeSet([8])) if n.id == 255 else n for n in machine.nodes)
    root = trees.write(attrs.evolve(machine, nodes=memory, gpus=(gpu,)), tmp_path)
    file = tmp_path / f"proc/driver/nvidia/gpus/{gpu.pci}/numa_status"
    file.parent.mkdir(parents=True)
    file.write_text(status + "\n")
    host = Host.from_root(root)
    assert host.topology.pci_devices[0].memory_node == memory_node
    (found,) = affinity.plan(gpu="all", host=host).launch.gpus
    assert found.node == (8 if memory_node == 255 else None)


def test_memory_affinity_with_no_cpu_node_in_it_shows_nothing() -> None:
    """Its nodes are the GPU's own then."""
    node, why = on(GB200, nodes(NodeSource.NVML_MEMORY, "2-9"))
    assert node is None
    assert "NVML memory affinity names node 2-9, which decides nothing" in why


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(STRONGEST_FIRST), max_size=4),
    st.sampled_from(["dgx-h100", "gb200", "power9-ac922", "numa-fake"]),
)
def test_the_answer_is_a_node_with_cpus_or_none(evidence: list[NodeEvidence], machine: str) -> None:
    """Whatever is reported of whichever machine."""
    topology = machines.load(machine)
    node, _ = on(topology, *evidence)
    assert node is None or node in topology.cpu_nodes
