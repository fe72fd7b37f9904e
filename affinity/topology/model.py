"""`Topology`: what the machine is made of. Plain values, which a source reads.

Nodes are read when a topology is made, all else on first use: a policy that places on whole nodes never pays for
cores and caches.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

import attrs

from affinity.errors import UsageError
from affinity.topology.cpuset import CpuSet, NodeSet, node_set


class Origin(enum.Enum):
    """Where a topology comes from. Only a live one may bind this machine."""

    LIVE = "live"
    SYSFS = "sysfs tree"
    SYNTHETIC = "synthetic"


@attrs.frozen
class Node:
    """A NUMA node. It may have no CPUs (GPU or HBM memory), no memory, or CPUs that other nodes have too (`numa=fake`).

    id: the kernel's number; cpus: its online CPUs; has_memory: whether pages can be placed on it.
    """

    id: int
    cpus: CpuSet
    has_memory: bool = True


@attrs.frozen
class Cpu:
    """A logical CPU (hwloc's PU).

    core: the lowest CPU number of its physical core. l3: the lowest of its L3 domain, `core` if there is no L3.
    package: the socket's number; a socket to which the firmware gave none is numbered after those that have one.
    """

    id: int
    core: int
    l3: int
    package: int


@attrs.frozen(order=True)
class PciAddress:
    """domain:bus:device.function, the identity of a device. Source: lspci(8), `-D`.

    Accepts any case, a missing domain (0000) and NVML's eight-digit domain.
    """

    domain: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> PciAddress:
        """Raises UsageError where the text is no PCI address."""
        found = cls.try_parse(text)
        if found is None:
            raise UsageError(f"{text!r} is no PCI address: expected e.g. 0000:1b:00.0")
        return found

    @classmethod
    def try_parse(cls, text: str) -> PciAddress | None:
        """Return the address, None if the text is none."""
        parts = text.strip().split(":")
        if len(parts) == 2:
            parts.insert(0, "0")
        if len(parts) != 3:
            return None
        device, _, function = parts[2].partition(".")
        numbers = []
        for digits, width in ((parts[0], 8), (parts[1], 2), (device, 2), (function, 1)):
            if not 0 < len(digits) <= width or any(c not in "0123456789abcdefABCDEF" for c in digits):
                return None
            numbers.append(int(digits, 16))
        return cls(*numbers) if numbers[2] < 32 and numbers[3] < 8 else None

    def __str__(self) -> str:
        """As sysfs names it: at least four digits of domain, lower case."""
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function:x}"


@attrs.frozen
class Cache:
    """A cache, with the online CPUs that share it.

    type: "data", "instruction" or "unified". size: in bytes, None if unknown.
    """

    level: int
    type: str
    size: int | None
    cpus: CpuSet


@attrs.frozen
class PciDevice:
    """A PCI device, as sysfs shows it: a display, 3D or accelerator controller, or a network adapter.

    numa_node: None if the kernel reports -1 (unknown, never node 0).
    local_cpus: of the device itself; bridge_cpus: of the nearest bridge above whose node is known.
    boot_vga: True for the firmware's console, None if the file is missing. unique_id: amdgpu's, in hexadecimal.
    memory_node: the node that is the GPU's own memory, from NVIDIA's numa_status; None if there is none.
    """

    address: PciAddress
    vendor: int
    device: int
    class_code: int
    numa_node: int | None = None
    local_cpus: CpuSet | None = None
    bridge_cpus: CpuSet | None = None
    boot_vga: bool | None = None
    unique_id: str = ""
    memory_node: int | None = None


@attrs.frozen
class Nic:
    """A network adapter: a PCI function, with the names that the kernel has for it.

    rdma: its RDMA devices ("mlx5_0"), as in `ibv_devices`. interfaces: its network interfaces ("ib0"); a network
    namespace hides those of others.
    """

    device: PciDevice
    rdma: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()

    @property
    def address(self) -> PciAddress:
        return self.device.address

    def __str__(self) -> str:
        return next(iter((*self.rdma, *self.interfaces)), str(self.address))


class TopologySource(Protocol):
    """The facts that a topology reads on first use, and `notes` on those that could not be read."""

    @property
    def notes(self) -> Sequence[str]: ...
    def distances(self) -> Mapping[int, Mapping[int, int]]: ...
    def initiators(self) -> Mapping[int, NodeSet]: ...
    def memory(self) -> Mapping[int, int]: ...
    def cpus(self) -> Mapping[int, Cpu]: ...
    def pci_devices(self) -> tuple[PciDevice, ...]: ...
    def nics(self) -> tuple[Nic, ...]: ...
    def pci_paths(self) -> Mapping[PciAddress, tuple[str, ...]]: ...
    def caches(self) -> tuple[Cache, ...]: ...
    def free_memory(self) -> Mapping[int, int]: ...


@attrs.frozen
class Topology:
    """The machine: NUMA nodes, CPUs, PCI devices, distances; and the origin of these facts.

    nodes: by ascending id, online ones only. detail: the tree's directory or the synthetic line.
    nodeless: online CPUs that no online node has.
    """

    nodes: tuple[Node, ...]
    origin: Origin
    detail: str
    source: TopologySource = attrs.field(repr=False, eq=False)
    nodeless: CpuSet = CpuSet()

    @property
    def notes(self) -> tuple[str, ...]:
        """Records that could not be used, among those that were read so far."""
        return tuple(self.source.notes)

    @cached_property
    def by_id(self) -> Mapping[int, Node]:
        """Nodes by id."""
        return {node.id: node for node in self.nodes}

    @cached_property
    def online(self) -> CpuSet:
        """Every online CPU."""
        bits = self.nodeless.bits
        for node in self.nodes:
            bits |= node.cpus.bits
        return CpuSet.from_bits(bits)

    @cached_property
    def cpu_nodes(self) -> NodeSet:
        """Nodes that have CPUs."""
        return NodeSet(n.id for n in self.nodes if n.cpus)

    @cached_property
    def memory_nodes(self) -> NodeSet:
        """Nodes that have memory."""
        return NodeSet(n.id for n in self.nodes if n.has_memory)

    @cached_property
    def distances(self) -> Mapping[int, Mapping[int, int]]:
        """`distances[a][b]`: the firmware's relative latency from node a to node b (10 is local)."""
        return self.source.distances()

    @cached_property
    def initiators(self) -> Mapping[int, NodeSet]:
        """The other nodes that the firmware names as the fastest to use each node's memory (ACPI's HMAT)."""
        return self.source.initiators()

    @cached_property
    def memory(self) -> Mapping[int, int]:
        """Bytes of memory of each node."""
        return self.source.memory()

    @cached_property
    def cpus(self) -> Mapping[int, Cpu]:
        """Core, L3 domain and package of each online CPU."""
        return self.source.cpus()

    @cached_property
    def pci_devices(self) -> tuple[PciDevice, ...]:
        """Display, 3D and accelerator controllers, in PCI order."""
        return self.source.pci_devices()

    @cached_property
    def nics(self) -> tuple[Nic, ...]:
        """Network adapters, in PCI order."""
        return self.source.nics()

    @cached_property
    def pci_paths(self) -> Mapping[PciAddress, tuple[str, ...]]:
        """The path of each PCI device as sysfs names it: host bridge ("pci0000:15"), bridges, the device itself."""
        return self.source.pci_paths()

    @cached_property
    def caches(self) -> tuple[Cache, ...]:
        """Every cache, by level, type and lowest CPU."""
        return self.source.caches()

    @cached_property
    def free_memory(self) -> Mapping[int, int]:
        """Bytes free on each node (`MemFree`, without the page cache) when first asked; nothing for an archive."""
        return self.source.free_memory()

    def nodes_of(self, cpus: CpuSet, chosen: NodeSet | None = None) -> NodeSet:
        """Return the nodes that these CPUs belong to.

        chosen: of nodes that share CPUs (`numa=fake`), the ones that are meant. Without it all of them count.
        """
        chosen = chosen or NodeSet()
        others = cpus - self.cpus_of(chosen)
        return NodeSet(n.id for n in self.nodes if not n.cpus.isdisjoint(others if n.id not in chosen else cpus))

    def sharing_nodes(self, node: int) -> NodeSet:
        """Return the nodes that have CPUs of `node`, itself included: several under `numa=fake` alone."""
        return self.nodes_of(self.cpus_of(NodeSet([node]))) | NodeSet([node])

    def cpus_of(self, nodes: NodeSet) -> CpuSet:
        """Return all online CPUs of these nodes; nodes that are not online add none."""
        bits, chosen = 0, node_set(nodes)
        for node in self.nodes:
            if node.id in chosen:
                bits |= node.cpus.bits
        return CpuSet.from_bits(bits)

    def nearest(self, node: int, among: NodeSet) -> NodeSet:
        """Return those of `among` at the least distance from `node`: several if they tie.

        Without distances from the firmware the result is all of `among`.
        """
        row = self.distances.get(node, {})
        known = [(row[n], n) for n in among if n in row]
        if not known:
            return among
        least = min(known)[0]
        return NodeSet(n for d, n in known if d == least)

    def initiators_with_cpus(self, node: int) -> NodeSet:
        """Return the nodes with CPUs among the initiators of `node`; empty if the firmware names none."""
        return self.initiators.get(node, NodeSet()) & self.cpu_nodes
