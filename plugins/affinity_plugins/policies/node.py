"""`node`: all allowed CPUs of the GPU's node; of several GPUs, of all their nodes."""

from __future__ import annotations

from affinity import Host, Launch, Placement, PlacementPolicy, Settings, allowed_on, memory_beside


class Node(PlacementPolicy):
    """The default. A GPU on node 1 of `pack:2 core:4` gets CPUs 4-7 and prefers memory of node 1."""

    def place(self, host: Host, launch: Launch, settings: Settings) -> Placement:
        nodes = launch.gpu_nodes
        if not nodes:
            return Placement(None, None, reason="no GPU's node is known")
        cpus = allowed_on(nodes, host)
        return Placement(cpus, memory_beside(cpus, host, settings), nodes, f"all allowed CPUs of node {nodes}")
