"""`even`: the machine's physical cores in equal parts, one for each worker, independent of the nodes of GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from affinity import CpuSet, LaunchMode, PlacementError
from affinity.policies import (
    Observation,
    Placement,
    PlacementPolicy,
    gpu_indices,
    memory_for,
    own_mask_reason,
    place_on_nodes,
    split_contiguous,
    usable_cores,
)


class Even(PlacementPolicy):
    """The second of 4 workers on `pack:2 core:4` gets cores 2-3; the policy of SGLANG_SET_CPU_AFFINITY=1.

    Workers are distinguished by the launcher's local rank, else by the place of their GPU among all in PCI order.
    Cores are counted node by node; the first parts take the remainder.
    """

    def place(self, observation: Observation) -> Placement:
        host, launch = observation.host, observation.launch
        if launch.nodes is not None:
            return place_on_nodes(launch.nodes, observation)
        own = own_mask_reason(observation)
        if own:
            cores = usable_cores(host.topology.cpu_nodes, observation, least=1)
            return self._on(cores, f"all {len(cores)} usable cores; {own}", observation)
        mine: Sequence[int]
        count = len(launch.machine_gpus)
        if launch.local_rank is not None and launch.mode is not LaunchMode.SPAWN:  # there the rank is the parent's
            mine, count, by = [launch.local_rank], launch.local_size or count, "its local rank"
        else:
            mine, by = gpu_indices(launch), "the place of its GPU"
        if not mine:
            return Placement(None, None, reason="no local rank and no GPU distinguishes this worker from the others")
        if max(mine) >= count:
            raise PlacementError(
                f"local rank {max(mine)} was found, but the number of local workers or GPUs is {count}: "
                "have the launcher set the number of local workers, or choose another policy"
            )
        cores = usable_cores(host.topology.cpu_nodes, observation, least=count)
        shares = split_contiguous(cores, count)
        parts = ", ".join(str(i + 1) for i in mine)
        reason = f"part {parts} of {count} of the machine's {len(cores)} usable cores, by {by}"
        return self._on([shares[i] for i in mine], reason, observation)

    def _on(self, parts: Sequence[CpuSet], reason: str, observation: Observation) -> Placement:
        cpus = CpuSet(cpu for part in parts for cpu in part)
        nodes = observation.host.topology.nodes_of(cpus, observation.launch.gpu_nodes)
        return Placement(cpus, memory_for(cpus, observation), nodes, reason)
