"""`core-complex`: one L3 domain of the node for each GPU."""

from __future__ import annotations

from collections.abc import Sequence

from affinity import CpuSet, NodeSet
from affinity.policies import Observation, SplitPolicy, l3_domains, usable_cpus


class CoreComplex(SplitPolicy):
    """Two GPUs on a node with L3 domains 0-7, 8-15 and 16-23 get 0-7 and 8-15.

    Larger domains (by usable CPUs) first, then lower CPU numbers. If there are fewer domains than GPUs, GPUs share
    domains in turn, and shares are not disjoint. torchrun calls it `core-complex`.
    """

    share_name = "one L3 domain"

    def split(self, node: int, count: int, observation: Observation) -> Sequence[CpuSet]:
        domains = l3_domains(usable_cpus(NodeSet([node]), observation), observation.host)
        best = sorted(domains, key=lambda cpus: (-len(cpus), cpus.first()))
        return [best[i % len(best)] for i in range(count)]
