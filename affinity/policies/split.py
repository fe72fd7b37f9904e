"""Base class and helpers of the policies that divide CPUs among GPUs, for built-in and third-party policies.

A policy computes the shares of all GPUs and returns the worker's own, so workers agree without communication. A worker
whose launcher gave it a mask of its own takes that mask whole.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import ClassVar, final

import attrs

from affinity.devices.gpu import Gpu
from affinity.errors import PlacementError
from affinity.host import Host
from affinity.launchers.launch import Launch
from affinity.observation import Observation
from affinity.policies.placement import Placement
from affinity.policies.policy import PlacementPolicy, allowed_cpus_of, memory_for
from affinity.settings import Settings
from affinity.topology.cpuset import CpuSet, NodeSet
from affinity.topology.model import Topology


class SplitPolicy(PlacementPolicy):
    """A policy that divides the CPUs of a node among the GPUs of that node: implement `split`.

    A worker with several GPUs gets the shares of all of them. A worker with a node instead of a GPU gets the whole
    node, because the number of its workers is unknown; so does one whose GPU may be any of several on that node.
    """

    #: Name of one GPU's share in messages: "a contiguous share of the cores".
    share_name: ClassVar[str] = "a share"

    @abstractmethod
    def split(self, node: int, count: int, observation: Observation) -> Sequence[CpuSet]:
        """Return the shares of the `count` GPUs of `node`, in PCI order. Raise PlacementError if that is impossible."""

    @final
    def place(self, observation: Observation) -> Placement:
        host, launch = observation.host, observation.launch
        if launch.nodes is not None:
            return place_on_nodes(launch.nodes, observation)
        gpus, own = launch.machine_gpus, own_mask_reason(observation)
        cpus, shares = CpuSet(), []
        for gpu in dict.fromkeys(launch.gpus):
            if is_unidentified(gpu, launch):
                if gpu.node is not None:
                    cpus |= usable_cpus(NodeSet([gpu.node]), observation)
                    shares.append(f"node {gpu.node} undivided, because this worker's GPU may be any {gpu}")
                continue
            (index,) = gpu_indices(attrs.evolve(launch, gpus=(gpu,)))
            node = gpus[index].node
            if node is None:
                continue
            sharing = host.topology.sharing_nodes(node)
            on_node = [i for i, gpu in enumerate(gpus) if gpu.node in sharing and (not own or gpu in launch.gpus)]
            position = on_node.index(index)
            cpus |= self.split(node, len(on_node), observation)[position]
            shares.append(f"{self.share_name} of node {node} ({_position_text(position, len(on_node))})")
        if not shares:
            return Placement(None, None, reason="no GPU's node is known")
        reason = "; ".join([*shares, *([own] if own else [])]) + _options(observation.settings)
        nodes = host.topology.nodes_of(cpus, launch.gpu_nodes)
        return Placement(cpus, memory_for(cpus, observation), nodes, reason)


_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def _position_text(position: int, count: int) -> str:
    """Return text such as "second of 4 GPUs on the node" for position 1."""
    if count == 1:
        return "the only GPU on the node"
    ordinal = _ORDINALS[position] if position < len(_ORDINALS) else f"number {position + 1}"
    return f"{ordinal} of {count} GPUs on the node"


def place_on_nodes(nodes: NodeSet, observation: Observation) -> Placement:
    """Return the placement on all usable CPUs of these nodes. Raise PlacementError if there is none."""
    cpus = usable_cpus(nodes, observation)
    reason = f"all allowed CPUs of node {nodes}{_options(observation.settings)}"
    return Placement(cpus, memory_for(cpus, observation, nodes), nodes, reason)


def own_mask_reason(observation: Observation) -> str:
    """Return the reason if the allowed CPUs are this worker's share already, "" otherwise.

    A launcher that binds its workers gives each of them its share. The mask alone does not show that, because all
    workers of a container have the container's mask. So the launcher must bind its workers, and the machine must have
    a mask of this size for each local worker: some launchers bind several workers to each node. If the number of local
    workers is unknown, each is assumed to have as many GPUs as this one.
    """
    host, launch = observation.host, observation.launch
    online, allowed = len(host.topology.online), len(host.allowed_cpus)
    is_worker = launch.binds_workers and launch.local_rank is not None and launch.start_method in ("", "exec")
    workers = launch.local_size or max(1, len(launch.machine_gpus) // max(1, len(launch.gpus)))
    if not is_worker or allowed == online or allowed * workers > online:
        return ""
    return (
        f"launcher {launch.launcher} gave this worker {allowed} of {online} CPUs, "
        f"which leaves as many for each of {workers} workers: they count as its own"
    )


def usable_cpus(nodes: NodeSet, observation: Observation) -> CpuSet:
    """Return the allowed CPUs of these nodes that AFFINITY_RESERVE and AFFINITY_SMT leave.

    Raise PlacementError, with the numbers, if none is left.
    """
    host, settings = observation.host, observation.settings
    allowed = allowed_cpus_of(nodes, host)
    usable = _usable(nodes, host, settings)
    if not usable:
        raise PlacementError(
            f"AFFINITY_RESERVE={settings.reserve} leaves no core of node {nodes} "
            f"(CPUs {host.topology.cpus_of(nodes)}, allowed: {allowed}): lower it, or widen the cpuset or batch limit"
        )
    return usable


def usable_cores(nodes: NodeSet, observation: Observation, *, least: int) -> tuple[CpuSet, ...]:
    """Return the usable physical cores of these nodes, node by node, in the order of their lowest CPU number.

    Raise PlacementError, with the numbers, if there are fewer than `least`.
    """
    cpus, host = usable_cpus(nodes, observation), observation.host
    cores = _cores_by_node(nodes, cpus, host)
    if len(cores) < least:
        raise PlacementError(
            f"usable physical cores of node {nodes}: {len(cores)} (CPUs {cpus}) for {least} workers, each of which "
            f"needs one{_options(observation.settings)}: widen the cpuset or batch limit, or choose a policy that "
            "shares cores (node, socket, core-complex)"
        )
    return tuple(cores)


def physical_cores(cpus: CpuSet, host: Host) -> tuple[CpuSet, ...]:
    """Return these CPUs grouped by physical core, lowest CPU number first; a core may be incomplete."""
    return tuple(_grouped(cpus, lambda cpu: host.topology.cpus[cpu].core))


def l3_domains(cpus: CpuSet, host: Host) -> tuple[CpuSet, ...]:
    """Return these CPUs grouped by shared L3 cache, lowest CPU number first; a domain may be incomplete."""
    return tuple(_grouped(cpus, lambda cpu: host.topology.cpus[cpu].l3))


def split_contiguous(cores: Sequence[CpuSet], count: int) -> tuple[CpuSet, ...]:
    """Return `count` runs of adjacent cores; the first ones have one core more if the division has a remainder."""
    length, remainder = divmod(len(cores), count)
    starts = [i * length + min(i, remainder) for i in range(count + 1)]
    return tuple(_union(cores[a:b]) for a, b in pairwise(starts))


def add_package_cores(cores: Sequence[CpuSet], observation: Observation) -> Sequence[CpuSet]:
    """Return the cores of one node, each with further cores of its package if AFFINITY_SCOPE is `socket`.

    The package's cores on nodes without a GPU are assigned in turn to its cores on nodes with a GPU. So all cores of a
    DGX A100, where only half of the nodes have GPUs, are used, and each GPU keeps its own node's cores. Source:
    NVIDIA's gpu_affinity, scope SOCKET.
    """
    host, launch, settings = observation.host, observation.launch, observation.settings
    if settings.scope != "socket":
        return cores
    topology = host.topology
    own = topology.nodes_of(_union(cores))
    package = package_nodes(own, topology)
    of_gpus = NodeSet(gpu.node for gpu in launch.machine_gpus if gpu.node is not None)
    with_gpu = (own | topology.nodes_of(topology.cpus_of(of_gpus))) & package
    near = sorted(_cores_by_node(with_gpu, _usable(with_gpu, host, settings), host), key=CpuSet.first)
    units = {core: core for core in near}
    for i, core in enumerate(physical_cores(_usable(package - with_gpu, host, settings), host)):
        units[near[i % len(near)]] |= core
    return [units[core] for core in cores]


def package_nodes(nodes: NodeSet, topology: Topology) -> NodeSet:
    """Return all nodes with CPUs on the packages (sockets) of these nodes."""
    packages = {topology.cpus[cpu].package for cpu in topology.cpus_of(nodes)}
    return NodeSet(n.id for n in topology.nodes if any(topology.cpus[cpu].package in packages for cpu in n.cpus))


def is_unidentified(gpu: Gpu, launch: Launch) -> bool:
    """Return whether a worker's GPU may be any of several: its node may be known, its place among them is not."""
    return gpu.pci is None and gpu not in launch.machine_gpus


def gpu_indices(launch: Launch) -> tuple[int, ...]:
    """Return the position of each of the worker's GPUs among all of the machine, in PCI order, from 0.

    Raise PlacementError if a GPU is not on this machine, or may be any of several.
    """
    for gpu in launch.gpus:
        if is_unidentified(gpu, launch):
            raise PlacementError(
                f"this worker's GPU is {gpu}, so it has no place among them: install the driver's library "
                "(numa-affinity[nvml]), or name the GPU by its PCI address"
            )
        if gpu not in launch.machine_gpus:
            found = ", ".join(map(str, launch.machine_gpus)) or "none"
            raise PlacementError(
                f"GPU {gpu} is not among the GPUs of this machine ({found}), so it has no share: name one of these"
            )
    return tuple(launch.machine_gpus.index(gpu) for gpu in launch.gpus)


def _union(sets: Iterable[CpuSet]) -> CpuSet:
    return CpuSet(cpu for cpus in sets for cpu in cpus)


def _cores_by_node(nodes: NodeSet, cpus: CpuSet, host: Host) -> list[CpuSet]:
    """Return the cores of these CPUs, node by node, and each core once if nodes share CPUs."""
    cores: list[CpuSet] = []
    for node in nodes:
        on_node = cpus & host.topology.cpus_of(NodeSet([node]))
        cores += physical_cores(on_node, host)
        cpus -= on_node
    return cores


def _usable(nodes: NodeSet, host: Host, settings: Settings) -> CpuSet:
    cpus = host.topology.cpus_of(nodes) & host.allowed_cpus
    if settings.reserve:
        # The lowest cores of the node, allowed or not, so that all workers of the machine leave the same cores free.
        for node in nodes:
            cpus -= _union(physical_cores(host.topology.cpus_of(NodeSet([node])), host)[: settings.reserve])
    if settings.smt == "one":
        cpus = CpuSet(core.first() for core in physical_cores(cpus, host))
    return cpus


def _options(settings: Settings) -> str:
    options = [f"AFFINITY_RESERVE={settings.reserve}"] if settings.reserve else []
    options += [f"AFFINITY_SMT={settings.smt}"] if settings.smt != "all" else []
    return f" ({', '.join(options)})" if options else ""


def _grouped(cpus: CpuSet, key: Callable[[int], int]) -> list[CpuSet]:
    groups: dict[int, list[int]] = {}
    for cpu in cpus:
        groups.setdefault(key(cpu), []).append(cpu)
    return [CpuSet(groups[first]) for first in sorted(groups)]
