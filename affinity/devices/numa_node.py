"""Which node a GPU is next to: the order of evidence, and what is told of it.

The operator's word; PCI `numa_node`; NVML's memory affinity, only nodes with CPUs; NVML's CPU affinity of the node,
then of the socket; the GPU's own memory node, by distance; the CPUs local to the device, then to the upstream
bridge; else unknown.
Unknown is never node 0: only on a machine with a single node with CPUs there is nothing to know.
"""

from __future__ import annotations

import attrs

from affinity.devices.gpu import Gpu, NodeEvidence, NodeSource
from affinity.topology.cpuset import NodeSet
from affinity.topology.model import Topology


def assign_node(gpu: Gpu, topology: Topology) -> Gpu:
    """The GPU with `node`, `source` and `why` filled in from its evidence.

    A source that names several nodes with CPUs decides nothing: a virtual machine reports all of them. A node
    without CPUs resolves to the nearest with CPUs, where one is nearest. The strongest source that decides wins;
    whoever contradicts it is told in `why`.
    """
    readings = [_evaluate(evidence, topology) for evidence in sorted(gpu.evidence, key=lambda e: e.source)]
    best = next((r for r in readings if len(r.nodes) == 1), None)
    if best is None and len(topology.cpu_nodes) == 1:
        return attrs.evolve(
            gpu, node=topology.cpu_nodes.first(), node_source=None, node_reason="the only node with CPUs"
        )
    if best is None:
        told = "; ".join(r.words for r in readings) or "no source tells its node"
        return attrs.evolve(gpu, node=None, node_source=None, node_reason=f"unknown: {told} (set AFFINITY_NODES)")
    against = [r.against for r in readings if r.wrong or (r.nodes and best.nodes.isdisjoint(r.nodes))]
    why = "; but ".join([best.words, *against])
    return attrs.evolve(gpu, node=best.nodes.first(), node_source=best.source, node_reason=why)


@attrs.frozen
class _Finding:
    """What a source comes to: the nodes with CPUs it leaves, the words for it, whether it cannot be right."""

    source: NodeSource
    nodes: NodeSet
    words: str
    wrong: bool = False

    @property
    def against(self) -> str:
        """The same words where another source has won."""
        return f"{self.source.label} says node {self.nodes}" if len(self.nodes) == 1 else self.words


def _evaluate(evidence: NodeEvidence, topology: Topology) -> _Finding:
    source, name = evidence.source, evidence.source.label
    if evidence.problem:
        return _Finding(source, NodeSet(), f"{name}: {evidence.problem}")
    if evidence.cpus:
        return _from_nodes(source, topology.nodes_of(evidence.cpus), f"{name} (CPUs {evidence.cpus})")
    online = evidence.nodes & NodeSet(topology.by_id)
    if not online:
        there = NodeSet(topology.by_id)
        return _Finding(source, NodeSet(), f"{name} says node {evidence.nodes}, online are {there}", wrong=True)
    with_cpus = online & topology.cpu_nodes
    # A GPU's own memory node is never the answer itself, and NVML's memory affinity lists such nodes next to it.
    if with_cpus and source is not NodeSource.GPU_MEMORY:
        return _from_nodes(source, with_cpus, name)
    if with_cpus or source is NodeSource.NVML_MEMORY:
        return _Finding(source, NodeSet(), f"{name} names node {online}, which tells nothing")
    near = [topology.nearest(node, topology.cpu_nodes) for node in online]
    found = near[0] if all(n == near[0] for n in near) else topology.cpu_nodes
    where = f"GPU memory node {online}" if source is NodeSource.GPU_MEMORY else f"memory node {online} ({name})"
    if len(found) == 1:
        return _Finding(source, found, f"nearest node with CPUs to {where}")
    return _Finding(source, found, f"nodes {found} are equally near to {where}")


def _from_nodes(source: NodeSource, nodes: NodeSet, name: str) -> _Finding:
    if len(nodes) == 1:
        return _Finding(source, nodes, f"from {name}")
    if not nodes:
        return _Finding(source, nodes, f"{name} are on no node here", wrong=True)
    return _Finding(source, nodes, f"{name} names nodes {nodes}, which decides nothing")
