"""Which node a GPU is next to."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affinity import CpuSet, NodeSet
from affinity.devices import Gpu, NodeEvidence, NodeSource
from affinity.devices.numa_node import assign_node
from affinity.testing import machines
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
def test_the_strongest_source_wins_in_whatever_order_they_are_told(order: list[int], strongest: int) -> None:
    """The sources from `strongest` on say node 1, but all weaker than it say node 0."""
    told = [
        STRONGEST_FIRST[i] if i == strongest else nodes(STRONGEST_FIRST[i].source, "0") for i in order if i >= strongest
    ]
    node, why = on(TWO, *told)
    assert node == 1
    assert why.startswith(f"from {STRONGEST_FIRST[strongest].source.label}")
    assert why.count("says node 0") == len(told) - 1


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
            (0, "from PCI numa_node; but NVML memory affinity says node 1"),
        ),
        ((nodes(NodeSource.PCI_NUMA_NODE, "0"), nodes(NodeSource.NVML_MEMORY, "0-1")), (0, "from PCI numa_node")),
        (
            (nodes(NodeSource.PCI_NUMA_NODE, "7"), nodes(NodeSource.NVML_MEMORY, "1")),
            (1, "from NVML memory affinity; but PCI numa_node says node 7, online are 0-1"),
        ),
        ((), (None, "unknown: no source tells its node (set AFFINITY_NODES)")),
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
def test_evidence_decides_or_says_why_it_does_not(
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


def test_memory_affinity_with_no_cpu_node_in_it_tells_nothing() -> None:
    """Its nodes are the GPU's own then."""
    node, why = on(GB200, nodes(NodeSource.NVML_MEMORY, "2-9"))
    assert node is None
    assert "NVML memory affinity names node 2-9, which tells nothing" in why


@settings(deadline=None)
@given(st.lists(st.sampled_from(STRONGEST_FIRST), max_size=4), st.sampled_from(["dgx-h100", "gb200", "power9-ac922"]))
def test_the_answer_is_a_node_with_cpus_or_none(evidence: list[NodeEvidence], machine: str) -> None:
    """Whatever is told of whichever machine."""
    topology = machines.load(machine)
    node, _ = on(topology, *evidence)
    assert node is None or node in topology.cpu_nodes
