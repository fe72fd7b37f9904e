"""Which node a GPU is next to: the order of evidence, and the reason in words.

In order of precedence: AFFINITY_NODES; PCI `numa_node`; NVML's memory affinity, only nodes with CPUs; NVML's CPU
affinity of the node, then of the socket; the GPU's own memory node, by its initiators, else by distance; the CPUs local
to the device, then to the upstream bridge; else unknown.
Unknown is never node 0. A machine with a single node with CPUs leaves nothing to find out.
"""

from __future__ import annotations

import attrs

from affinity.devices.gpu import Gpu, NodeEvidence, NodeSource
from affinity.topology.cpuset import NodeSet
from affinity.topology.model import Topology


def assign_node(gpu: Gpu, topology: Topology) -> Gpu:
    """Return the GPU with `node`, `node_source` and `node_reason` filled in from its evidence.

    A source that names several nodes with CPUs decides nothing: a virtual machine reports all of them, and nodes may
    share their CPUs. A node without CPUs resolves to the one with CPUs that is its initiator, else to the nearest.
    The strongest source that decides wins; sources that disagree are listed in `node_reason`.
    """
    readings = [_evaluate(evidence, topology) for evidence in sorted(gpu.evidence, key=lambda e: e.source)]
    best = next((r for r in readings if len(r.nodes) == 1), None)
    if best is None and len(topology.cpu_nodes) == 1:
        return attrs.evolve(
            gpu, node=topology.cpu_nodes.first(), node_source=None, node_reason="the only node with CPUs"
        )
    if best is None:
        words = "; ".join(r.words for r in readings) or "no source has its node"
        return attrs.evolve(gpu, node=None, node_source=None, node_reason=f"unknown: {words} (set AFFINITY_NODES)")
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
        return f"{self.source.label} has node {self.nodes}" if len(self.nodes) == 1 else self.words


def _evaluate(evidence: NodeEvidence, topology: Topology) -> _Finding:
    source, name = evidence.source, evidence.source.label
    if evidence.problem:
        return _Finding(source, NodeSet(), f"{name}: {evidence.problem}")
    if evidence.cpus:
        return _from_nodes(source, topology.nodes_of(evidence.cpus), f"{name} (CPUs {evidence.cpus})")
    online = evidence.nodes & NodeSet(topology.by_id)
    if not online:
        there = NodeSet(topology.by_id)
        return _Finding(source, NodeSet(), f"{name} has node {evidence.nodes}, online are {there}", wrong=True)
    with_cpus = online & topology.cpu_nodes
    # A GPU's own memory node is never the answer itself, and NVML's memory affinity lists such nodes next to it.
    if with_cpus and source is not NodeSource.GPU_MEMORY:
        return _from_nodes(source, with_cpus, name)
    if with_cpus or source is NodeSource.NVML_MEMORY:
        return _Finding(source, NodeSet(), f"{name} names node {online}, which decides nothing")
    where = f"GPU memory node {online}" if source is NodeSource.GPU_MEMORY else f"memory node {online} ({name})"
    initiators = [topology.initiators_with_cpus(node) for node in online]
    found = [i or topology.nearest(n, topology.cpu_nodes) for n, i in zip(online, initiators, strict=True)]
    reason = f"the initiator of {where}" if all(initiators) else f"nearest node with CPUs to {where}"
    common = found[0] if all(nodes == found[0] for nodes in found) else topology.cpu_nodes
    if len(common) == 1:
        return _Finding(source, common, reason)
    return _Finding(source, common, f"nodes {common} are equally near to {where}")


def _from_nodes(source: NodeSource, nodes: NodeSet, name: str) -> _Finding:
    if len(nodes) == 1:
        return _Finding(source, nodes, f"from {name}")
    if not nodes:
        return _Finding(source, nodes, f"{name} are on no node here", wrong=True)
    return _Finding(source, nodes, f"{name} names nodes {nodes}, which decides nothing")
