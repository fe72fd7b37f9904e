"""`exclusive`: the node's physical cores, split into runs of neighbours, one for each GPU of the node."""

from __future__ import annotations

from collections.abc import Sequence

from affinity import CpuSet, Host, Launch, NodeSet, Settings, SplitPolicy, contiguous, usable_cores, with_package


class Exclusive(SplitPolicy):
    """Two GPUs on a node with cores 0 to 6 get cores 0-3 and 4-6; hardware threads stay with their core.

    The first GPUs in PCI order take the remainder. Fewer cores than GPUs is an error. NVIDIA's gpu_affinity calls
    it `unique_contiguous`, torchrun `exclusive`.
    """

    share = "a contiguous share of the cores"

    def deal(self, node: int, count: int, host: Host, launch: Launch, settings: Settings) -> Sequence[CpuSet]:
        cores = usable_cores(NodeSet([node]), host, settings, least=count)
        return contiguous(with_package(cores, host, launch, settings), count)
