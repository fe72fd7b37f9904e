"""`PlacementPolicy` and `Placement`: WHERE a worker goes. Pure: no policy reads or changes a system."""

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


class PlacementPolicy(ABC):
    """Entry point group `affinity.policies`: which CPUs and memory a worker gets.

    Write a class with a no-argument constructor and `place`. It is given the machine, this worker and the
    operator's options, and must be pure: it may not call `host.kernel`. It must give a subset of
    `host.allowed_cpus`, the same on every call, and work from this worker's view alone: compute the shares of
    all `launch.peers`, take this worker's own. "I have no preference" is `Placement(None, None)`; "there is no
    answer" is PlacementError, with the numbers; options that contradict the machine are SettingsError.
    `memory_for` gives the memory that follows from CPUs; `affinity.policies.split` has the rest of the toolbox.
    """

    #: The version of this interface that the class is written for; the registry refuses one newer than this.
    interface_version: ClassVar[int] = 1

    #: Its own variables, `AFFINITY_<PLUGIN>_<OPTION>`; `observation.settings.option(…)` reads one.
    options: ClassVar[tuple[Option[Any], ...]] = ()

    @abstractmethod
    def place(self, observation: Observation) -> Placement:
        """Where this worker goes. Raises PlacementError where no CPU is left for it."""


def memory_for(cpus: CpuSet, observation: Observation, nodes: NodeSet | None = None) -> MemoryPolicy | None:
    """Return the memory policy that follows the CPUs: their nodes, as far as they have memory and are allowed.

    nodes: of nodes that share CPUs (`numa=fake`), the ones that are meant; default: the worker's own.
    None if the operator wants none or none of those nodes can give memory: the kernel's first touch then takes the
    nearest node that can.
    """
    host, settings = observation.host, observation.settings
    if settings.memory is None:
        return None
    if settings.memory is MemoryMode.LOCAL:
        return MemoryPolicy(MemoryMode.LOCAL)
    meant = observation.launch.gpu_nodes if nodes is None else nodes
    found = host.topology.nodes_of(cpus, meant) & host.topology.memory_nodes & host.allowed_nodes
    if not found:
        return None
    return preferred_policy(found) if settings.memory is MemoryMode.PREFERRED else MemoryPolicy(settings.memory, found)


def missing_memory_reason(placement: Placement, observation: Observation) -> str:
    """Return why CPUs got no memory though the operator wants some (it is outside the cpuset), else ""."""
    host = observation.host
    if placement.cpus is None or placement.memory is not None or observation.settings.memory is None:
        return ""
    missing = host.topology.nodes_of(placement.cpus, placement.nodes) & host.topology.memory_nodes
    if not missing:
        return ""
    return f"memory of node {missing} is not allowed here (allowed: {host.allowed_nodes}), so memory is left alone"


def allowed_cpus_of(nodes: NodeSet, host: Host) -> CpuSet:
    """The allowed CPUs of these nodes. Raises PlacementError, saying what is in the way, where there is none."""
    missing = nodes - NodeSet(host.topology.by_id)
    if missing:
        there = NodeSet(host.topology.by_id)
        raise PlacementError(f"node {missing} is not on this machine: online nodes are {there}")
    there_cpus = host.topology.cpus_of(nodes)
    if not there_cpus:
        raise PlacementError(f"node {nodes} has no CPUs: nodes with CPUs are {host.topology.cpu_nodes}")
    cpus = there_cpus & host.allowed_cpus
    if not cpus:
        raise PlacementError(
            f"no CPU of node {nodes} ({there_cpus}) is allowed here (allowed: {host.allowed_cpus or 'none'}): "
            "widen the cpuset, container or batch limit, or choose another GPU"
        )
    return cpus
