"""`node`: all allowed CPUs of the GPU's node; of several GPUs, of all their nodes."""

from __future__ import annotations

from affinity.policies import Observation, Placement, PlacementPolicy, place_on_nodes


class Node(PlacementPolicy):
    """The default. A GPU on node 1 of `pack:2 core:4` gets CPUs 4-7 and prefers memory of node 1."""

    def place(self, observation: Observation) -> Placement:
        launch = observation.launch
        if not launch.gpu_nodes:
            return Placement(None, None, reason="no GPU's node is known")
        return place_on_nodes(launch.gpu_nodes, observation)
