"""`PlacementPolicy`: WHERE a worker goes. A policy is pure: it neither reads nor changes a system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from affinity.errors import PlacementError
from affinity.host import Host
from affinity.kernel.mempolicy import MemoryMode, MemoryPolicy
from affinity.observation import Observation
from affinity.policies.placement import Placement, preferred_policy
from affinity.topology.cpuset import CpuSet, NodeSet
from affinity.variables import Option

#: What to do if CPUs of a node are not allowed.
WIDEN_CPUS = "widen the cpuset, container or batch limit"


class PlacementPolicy(ABC):
    """Base class of entry-point group `affinity.policies`: the choice of CPUs and memory for a worker.

    Write a class with a no-argument constructor and `place`. Its argument holds the machine, the launch and the
    settings. `place` is pure: it does not call `host.kernel`. It returns a subset of `host.allowed_cpus`, the same on
    every call. To divide CPUs among workers, compute the shares of all `launch.machine_gpus` and return this worker's.
    Return `Placement(None, None)` to leave the worker unchanged. Raise PlacementError, with the numbers, if no
    placement is possible, and SettingsError if a setting contradicts the machine.
    `memory_for` returns the memory policy for CPUs; `affinity.policies` has further helpers.
    """

    #: Version of this interface that the class is written for; the registry refuses a newer one.
    interface_version: ClassVar[int] = 1

    #: Variables of the plugin, `AFFINITY_<PLUGIN>_<OPTION>`; `observation.settings.option(…)` reads one.
    options: ClassVar[tuple[Option[Any], ...]] = ()

    @abstractmethod
    def place(self, observation: Observation) -> Placement:
        """Return the placement of this worker. Raise PlacementError if no CPU is left for it."""


def memory_for(cpus: CpuSet, observation: Observation, nodes: NodeSet | None = None) -> MemoryPolicy | None:
    """Return the memory policy for these CPUs: on their nodes that have memory and are allowed.

    nodes: if nodes share CPUs (`numa=fake`), the ones to use; default: the worker's own.
    Return None if AFFINITY_MEMORY is `none` or if there is no such node. The kernel then allocates on first touch, from
    the nearest node with memory.
    """
    host, settings = observation.host, observation.settings
    if settings.memory is None:
        return None
    if settings.memory is MemoryMode.LOCAL:
        return MemoryPolicy(MemoryMode.LOCAL)
    own = observation.launch.gpu_nodes if nodes is None else nodes
    usable = host.topology.nodes_of(cpus, own) & host.topology.memory_nodes & host.allowed_nodes
    if not usable:
        return None
    if settings.memory is MemoryMode.PREFERRED:
        return preferred_policy(usable)
    return MemoryPolicy(settings.memory, usable)


def missing_memory_reason(placement: Placement, observation: Observation) -> str:
    """Return the reason if the placement has no memory policy because of the cpuset, "" otherwise."""
    host = observation.host
    if placement.cpus is None or placement.memory is not None or observation.settings.memory is None:
        return ""
    missing = host.topology.nodes_of(placement.cpus, placement.nodes) & host.topology.memory_nodes
    if not missing:
        return ""
    return f"memory of node {missing} is not allowed here (allowed: {host.allowed_nodes}), so memory is unchanged"


def allowed_cpus_of(nodes: NodeSet, host: Host) -> CpuSet:
    """Return the allowed CPUs of these nodes. Raise PlacementError, with the reason, if there is none."""
    online = NodeSet(host.topology.by_id)
    missing = nodes - online
    if missing:
        raise PlacementError(f"node {missing} is not on this machine: online nodes are {online}")
    cpus_of_nodes = host.topology.cpus_of(nodes)
    if not cpus_of_nodes:
        raise PlacementError(f"node {nodes} has no CPUs: nodes with CPUs are {host.topology.cpu_nodes}")
    cpus = cpus_of_nodes & host.allowed_cpus
    if not cpus:
        raise PlacementError(
            f"no CPU of node {nodes} ({cpus_of_nodes}) is allowed here (allowed: {host.allowed_cpus or 'none'}): "
            f"{WIDEN_CPUS}, or choose another GPU"
        )
    return cpus
