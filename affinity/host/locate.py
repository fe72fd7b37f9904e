"""Which node a GPU is next to: the order of evidence, and what is told of it.

The operator's word; PCI `numa_node`; NVML's memory affinity, only nodes with CPUs; NVML's CPU affinity; the CPUs
local to the upstream bridge; else unknown. Unknown is never node 0: only on a machine with a single node with
CPUs there is nothing to know.
"""

from __future__ import annotations

import attrs

from affinity.host.cpuset import NodeSet
from affinity.host.devices import Evidence, Gpu, Source
from affinity.host.topology import Topology


def locate(gpu: Gpu, topology: Topology) -> Gpu:
    """The GPU with `node` and `why` filled in from its evidence.

    A source that names several nodes with CPUs says nothing: a virtual machine reports all of them. A node
    without CPUs resolves to the nearest with CPUs. A weaker source that contradicts is told in `why`.
    """
    answers: list[tuple[Evidence, int, str]] = []
    vague: list[str] = []
    for evidence in sorted(gpu.evidence, key=lambda e: e.source):
        nodes, how = _nodes_with_cpus(evidence, topology)
        if len(nodes) == 1:
            answers.append((evidence, nodes.first(), how))
        elif nodes:
            vague.append(f"{evidence.source.words} names nodes {nodes}, which decides nothing")
        elif how:
            vague.append(how)
    if not answers:
        if len(topology.cpu_nodes) == 1:
            only = topology.cpu_nodes.first()
            return attrs.evolve(gpu, node=only, why="the only node with CPUs")
        told = "; ".join(vague) or "no source tells its node"
        return attrs.evolve(gpu, node=None, why=f"unknown: {told} (set AFFINITY_NODES)")
    best, node, how = answers[0]
    why = f"from {best.source.words}{how}"
    for other, elsewhere, _ in answers[1:]:
        if elsewhere != node:
            why += f"; {other.source.words} says node {elsewhere}"
    return attrs.evolve(gpu, node=node, why="; ".join([why, *vague]))


def _nodes_with_cpus(evidence: Evidence, topology: Topology) -> tuple[NodeSet, str]:
    """The nodes with CPUs that this evidence names, and words about how it got there."""
    if evidence.cpus:
        return topology.nodes_of(evidence.cpus), ""
    online = evidence.nodes & NodeSet(topology.by_id)
    with_cpus = online & topology.cpu_nodes
    if with_cpus:
        return with_cpus, ""
    if evidence.source in (Source.OPERATOR, Source.PCI_NUMA_NODE) and online:
        near = NodeSet()
        for node in online:
            near |= topology.nearest(node, topology.cpu_nodes)
        words = f": nearest node with CPUs to memory node {online}"
        return near, words if len(near) == 1 else f"{evidence.source.words} is node {online}, without CPUs"
    offline = evidence.nodes - NodeSet(topology.by_id)
    return NodeSet(), f"{evidence.source.words} says node {offline}, which is not online" if offline else ""
