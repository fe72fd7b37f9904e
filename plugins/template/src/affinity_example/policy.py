"""WHERE a worker goes: next to its GPU, and to further nodes if a container leaves too few CPUs there."""

from __future__ import annotations

from affinity import NodeSet
from affinity.policies import Observation, Placement, PlacementPolicy, place_on_nodes

#: CPUs that a worker should have: a scheduler, a tokenizer and the threads that feed the GPU.
ENOUGH = 8


class AffinityExamplePolicy(PlacementPolicy):
    """All allowed CPUs of the GPU's node; if these are fewer than ENOUGH, those of the next nearest nodes too."""

    interface_version = 1

    def place(self, observation: Observation) -> Placement:
        host = observation.host
        topology, nodes = host.topology, observation.launch.gpu_nodes
        if not nodes:
            return Placement(None, None, reason="no GPU's node is known")
        farther = topology.nodes_of(host.allowed_cpus) - nodes
        while farther and len(topology.cpus_of(nodes) & host.allowed_cpus) < ENOUGH:
            nearest = topology.nearest(nodes.first(), farther)
            nodes |= NodeSet([nearest.first()])
            farther -= nodes
        return place_on_nodes(nodes, observation)
