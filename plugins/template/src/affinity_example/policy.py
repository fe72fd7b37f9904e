"""WHERE a worker goes: next to its GPU, and to further nodes if a container leaves too few CPUs there."""

from __future__ import annotations

from affinity import NodeSet
from affinity.policies import Observation, Option, Placement, PlacementPolicy, place_on_nodes

#: A setting of the plugin: a scheduler, a tokenizer and the threads that feed the GPU need CPUs.
ENOUGH = Option("AFFINITY_AFFINITY_EXAMPLE_ENOUGH", int, "a number of CPUs", "CPUs that a worker should have", 8)


class AffinityExamplePolicy(PlacementPolicy):
    """All allowed CPUs of the GPU's node; if these are fewer than ENOUGH, those of the next nearest nodes too."""

    interface_version = 1
    options = (ENOUGH,)

    def place(self, observation: Observation) -> Placement:
        host = observation.host
        topology, nodes = host.topology, observation.launch.gpu_nodes
        enough = observation.settings.option(ENOUGH)
        if not nodes:
            return Placement(None, None, reason="no GPU's node is known")
        farther = topology.nodes_of(host.allowed_cpus) - nodes
        while farther and len(topology.cpus_of(nodes) & host.allowed_cpus) < enough:
            nearest = topology.nearest(nodes.first(), farther)
            nodes |= NodeSet([nearest.first()])
            farther -= nodes
        return place_on_nodes(nodes, observation)
