"""How two PCI devices are connected, in the terms of `nvidia-smi topo -m`, and which network adapter a GPU is next to.

All of it is derived from sysfs: no driver is asked, so a link that is not PCI Express (NVLink, xGMI) is not seen.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from itertools import takewhile

from affinity.devices.gpu import Gpu
from affinity.topology.cpuset import NodeSet
from affinity.topology.model import Nic, PciDevice, Topology


class Link(enum.IntEnum):
    """The closest common point of two devices, nearest first. Source: legend of `nvidia-smi topo -m`.

    PIX: one PCI bridge or switch at most. PXB: several bridges, but no host bridge. PHB: a host bridge. NODE: several
    host bridges of one NUMA node. SYS: the interconnect between NUMA nodes.
    """

    PIX = 1
    PXB = 2
    PHB = 3
    NODE = 4
    SYS = 5


def link(gpu: Gpu, other: Gpu | Nic, topology: Topology) -> Link | None:
    """Return the link between a GPU and another device, None if sysfs shows neither a common bridge nor both nodes."""
    ours, theirs = (_bridges(device, topology) for device in (gpu, other))
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))
    if shared > 1:  # below a common bridge; the ports of one switch are one bridge each
        return Link.PIX if max(len(ours), len(theirs)) - shared <= 1 else Link.PXB
    if shared == 1:
        return Link.PHB
    node = nic_node(other, topology) if isinstance(other, Nic) else other.node
    if gpu.node is None or node is None:
        return None
    return Link.NODE if gpu.node == node else Link.SYS


def nearest_nics(gpu: Gpu, topology: Topology) -> tuple[tuple[Nic, ...], Link | None]:
    """Return the adapters with the shortest way to a GPU, and the link to them; () and None if no link is known.

    Adapters that RDMA cannot use count only on a machine without RDMA devices. Among those behind the interconnect of
    the nodes, the nodes at the least distance are nearest.
    """
    candidates = [nic for nic in topology.nics if nic.rdma] or topology.nics
    ranked: dict[tuple[Link, int], list[Nic]] = {}
    for nic in candidates:
        found = link(gpu, nic, topology)
        if found is not None:
            node = nic_node(nic, topology)
            row = topology.distances.get(gpu.node, {}) if found is Link.SYS and gpu.node is not None else {}
            ranked.setdefault((found, row.get(node, 0) if node is not None else 0), []).append(nic)
    if not ranked:
        return (), None
    best = min(ranked)
    return tuple(ranked[best]), best[0]


def nic_node(nic: Nic, topology: Topology) -> int | None:
    """Return the node of an adapter: PCI `numa_node`, else the only node with CPUs, else that of the local CPUs."""
    device = nic.device
    if device.numa_node in topology.by_id:
        return device.numa_node
    if len(topology.cpu_nodes) == 1:
        return topology.cpu_nodes.first()
    return next((nodes.first() for nodes in _local_nodes(device, topology) if len(nodes) == 1), None)


def _local_nodes(device: PciDevice, topology: Topology) -> Sequence[NodeSet]:
    """Return the nodes of the CPUs local to a device, then to the bridge above it. All CPUs are no information."""
    local = (device.local_cpus, device.bridge_cpus)
    return [topology.nodes_of(cpus) for cpus in local if cpus and cpus != topology.online]


def _bridges(device: Gpu | Nic, topology: Topology) -> tuple[str, ...]:
    """Return the host bridge and the bridges above a device; () if sysfs does not show them."""
    address = device.pci if isinstance(device, Gpu) else device.address
    return topology.pci_paths.get(address, ())[:-1] if address is not None else ()
