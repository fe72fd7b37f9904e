"""`Topology`: what the machine is made of. Plain values; reading them is the business of a source.

Nodes are read when a topology is made, all else when first asked for: a policy that wants whole
nodes never pays for cores and caches.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from functools import cached_property
from typing import Protocol

import attrs

from affinity.errors import UsageError
from affinity.topology.cpuset import CpuSet, NodeSet


class Origin(enum.Enum):
    """Where a topology comes from. Only a live one may bind this machine."""

    LIVE = "live"
    SYSFS = "sysfs tree"
    SYNTHETIC = "synthetic"


@attrs.frozen
class Node:
    """A NUMA node. It may have no CPUs (GPU or HBM memory) or no memory: both are legal.

    id: the kernel's number; cpus: its online CPUs; has_memory: whether pages can be placed on it.
    """

    id: int
    cpus: CpuSet
    has_memory: bool = True


@attrs.frozen
class Cpu:
    """A logical CPU (hwloc's PU). `core` is the lowest CPU number of its physical core, `l3` the
    lowest of its last shared L3 domain (its own core where there is no L3), `package` the socket."""

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
        """The address, or None where the text is none."""
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
class PciDevice:
    """A display, 3D or accelerator controller, as sysfs tells of it.

    numa_node: None where the kernel says -1 (unknown, never node 0).
    local_cpus: of the device itself; bridge_cpus: of the nearest bridge above that knows its CPUs.
    boot_vga: True for the firmware's console, None where the file is missing. unique_id: amdgpu's, in hexadecimal.
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


class TopologySource(Protocol):
    """What a topology asks for when it is first needed."""

    def distances(self) -> Mapping[int, Mapping[int, int]]: ...
    def memory(self) -> Mapping[int, int]: ...
    def cpus(self) -> Mapping[int, Cpu]: ...
    def pci_devices(self) -> tuple[PciDevice, ...]: ...


@attrs.frozen
class Topology:
    """The machine: NUMA nodes, CPUs, PCI devices, distances; and where this knowledge comes from.

    nodes: by ascending id, online ones only. detail: the tree's directory or the synthetic line.
    """

    nodes: tuple[Node, ...]
    origin: Origin
    detail: str
    source: TopologySource = attrs.field(repr=False, eq=False)

    @cached_property
    def by_id(self) -> Mapping[int, Node]:
        """Nodes by id."""
        return {node.id: node for node in self.nodes}

    @cached_property
    def online(self) -> CpuSet:
        """Every online CPU."""
        bits = 0
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

    def nodes_of(self, cpus: CpuSet) -> NodeSet:
        """The nodes that these CPUs belong to."""
        return NodeSet(n.id for n in self.nodes if not n.cpus.isdisjoint(cpus))

    def cpus_of(self, nodes: NodeSet) -> CpuSet:
        """All online CPUs of these nodes; nodes that are not there add none."""
        bits = 0
        for node in self.nodes:
            if node.id in nodes:
                bits |= node.cpus.bits
        return CpuSet.from_bits(bits)

    def nearest(self, node: int, among: NodeSet) -> NodeSet:
        """Of `among`, those at the least distance from `node`: several where they tie.

        Where the firmware gives no distances the result is all of `among`.
        """
        row = self.distances.get(node, {})
        known = [(row[n], n) for n in among if n in row]
        if not known:
            return among
        least = min(known)[0]
        return NodeSet(n for d, n in known if d == least)
