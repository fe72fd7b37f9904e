"""`explicit`: the CPUs that the operator lists for each GPU."""

from __future__ import annotations

from affinity import CpuSet, PlacementError, SettingsError
from affinity.policies import Observation, Placement, PlacementPolicy, gpu_indices, memory_for, place_on_nodes


class Explicit(PlacementPolicy):
    """With `AFFINITY_CPUS=0-15|16-31` the first GPU in PCI order gets CPUs 0-15, the second 16-31.

    A CPU that is not allowed is an error that names it. AFFINITY_SMT and AFFINITY_RESERVE do not apply. Raise
    SettingsError if there is not one group for each GPU.
    """

    def place(self, observation: Observation) -> Placement:
        host, launch, settings = observation.host, observation.launch, observation.settings
        if launch.nodes is not None:
            return place_on_nodes(launch.nodes, observation)
        if len(settings.cpus) != len(launch.machine_gpus):
            raise SettingsError(
                f"AFFINITY_CPUS has {len(settings.cpus)} groups, but the machine has {len(launch.machine_gpus)} GPUs: "
                "policy explicit needs a CPU list for each GPU, in PCI order, e.g. 0-15|16-31"
            )
        if not launch.gpus:
            return Placement(None, None, reason="no GPU determines this worker's group of AFFINITY_CPUS")
        places = gpu_indices(launch)
        cpus = CpuSet(cpu for i in places for cpu in settings.cpus[i])
        refused = cpus - host.allowed_cpus
        if refused:
            offline = refused - host.topology.online
            raise PlacementError(
                f"AFFINITY_CPUS gives CPUs {cpus} to this worker, of which {refused} are not allowed here "
                f"(allowed: {host.allowed_cpus or 'none'}{f'; not online: {offline}' if offline else ''}): "
                "correct the list, or widen the cpuset, container or batch limit"
            )
        reason = f"AFFINITY_CPUS, group {', '.join(str(i + 1) for i in places)} of {len(launch.machine_gpus)}"
        return Placement(cpus, memory_for(cpus, observation), host.topology.nodes_of(cpus, launch.gpu_nodes), reason)
