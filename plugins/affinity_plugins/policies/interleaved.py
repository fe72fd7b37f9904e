"""`interleaved`: the node's physical cores, assigned in turn to the GPUs of the node."""

from __future__ import annotations

from collections.abc import Sequence

from affinity import CpuSet, NodeSet
from affinity.policies import Observation, SplitPolicy, add_package_cores, usable_cores


class Interleaved(SplitPolicy):
    """Two GPUs on a node with cores 0 to 6 get cores 0,2,4,6 and 1,3,5; hardware threads stay with their core.

    So each GPU has cores in every L3 domain. Fewer cores than GPUs is an error. NVIDIA's gpu_affinity calls it
    `unique_interleaved`.
    """

    share_name = "an interleaved share of the cores"

    def split(self, node: int, count: int, observation: Observation) -> Sequence[CpuSet]:
        cores = usable_cores(NodeSet([node]), observation, least=count)
        units = add_package_cores(cores, observation)
        return [CpuSet(cpu for unit in units[i::count] for cpu in unit) for i in range(count)]
