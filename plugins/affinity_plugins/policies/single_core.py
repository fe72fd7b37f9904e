"""`single-core`: one physical core of the node for each GPU."""

from __future__ import annotations

from collections.abc import Sequence

from affinity import CpuSet, NodeSet
from affinity.policies import Observation, SplitPolicy, usable_cores


class SingleCore(SplitPolicy):
    """Two GPUs on a node with cores 0 to 6 get core 0 and core 1, with their hardware threads.

    For measurements without migration between cores. Fewer cores than GPUs is an error. NVIDIA's gpu_affinity calls it
    `single_unique`.
    """

    share_name = "one physical core"

    def split(self, node: int, count: int, observation: Observation) -> Sequence[CpuSet]:
        return usable_cores(NodeSet([node]), observation, least=count)[:count]
