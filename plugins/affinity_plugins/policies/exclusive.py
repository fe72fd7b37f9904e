"""`exclusive`: the node's physical cores, split into runs of neighbours, one for each GPU of the node."""

from __future__ import annotations

from collections.abc import Sequence

from affinity import CpuSet, NodeSet
from affinity.policies import Observation, SplitPolicy, add_package_cores, split_contiguous, usable_cores


class Exclusive(SplitPolicy):
    """Two GPUs on a node with cores 0 to 6 get cores 0-3 and 4-6; hardware threads stay with their core.

    The first GPUs in PCI order take the remainder. Fewer cores than GPUs is an error. NVIDIA's gpu_affinity calls
    it `unique_contiguous`, torchrun `exclusive`.
    """

    share_name = "a contiguous share of the cores"

    def split(self, node: int, count: int, observation: Observation) -> Sequence[CpuSet]:
        cores = usable_cores(NodeSet([node]), observation, least=count)
        return split_contiguous(add_package_cores(cores, observation), count)
