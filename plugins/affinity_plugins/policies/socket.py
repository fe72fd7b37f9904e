"""`socket`: all allowed CPUs of all nodes of the GPU's package."""

from __future__ import annotations

from affinity.policies import Observation, Placement, PlacementPolicy, package_nodes, place_on_nodes


class Socket(PlacementPolicy):
    """A GPU on node 1 of `pack:2 numa:2 core:4` gets CPUs 0-7 and prefers memory of nodes 0 and 1.

    For machines with several nodes in a package, if a worker needs more than one of them.
    """

    def place(self, observation: Observation) -> Placement:
        host, launch = observation.host, observation.launch
        nodes = launch.gpu_nodes
        if not nodes:
            return Placement(None, None, reason="no GPU's node is known")
        return place_on_nodes(nodes | package_nodes(nodes, host.topology), observation)
