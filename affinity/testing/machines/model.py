"""`Machine`: the data that a simulated machine consists of."""

from __future__ import annotations

import enum
import uuid
from functools import cached_property
from typing import TypeVar

import attrs

from affinity.topology.cpuset import CpuSet, NodeSet, cpu_set, node_set
from affinity.topology.model import Cache, Cpu, Nic, Node, Origin, PciAddress, PciDevice, Topology
from affinity.topology.synthetic import StaticSource

GiB = 1 << 30

VENDORS = {
    "nvidia": 0x10DE,
    "amd": 0x1002,
    "intel": 0x8086,
    "aspeed": 0x1A03,
    "matrox": 0x102B,
    "mellanox": 0x15B3,
    "amazon": 0x1D0F,
}


Device = TypeVar("Device", "MachineGpu", "MachineNic")


class Smt(enum.Enum):
    """The kernel's numbering of hardware threads, for N cores with t threads each.

    SPLIT: core c has CPUs c, c+N, c+2N, … (most x86). ADJACENT: core c has CPUs c*t to c*t+t-1 (POWER, some
    virtual machines).
    """

    SPLIT = "split"
    ADJACENT = "adjacent"


@attrs.frozen
class MachineNode:
    """A NUMA node: its number, online and offline CPUs, bytes of memory (0: memory-less), and its package.

    initiators: the other nodes that the firmware's HMAT names as the fastest to use its memory.
    """

    id: int
    cpus: CpuSet = attrs.field(converter=cpu_set)
    memory: int
    package: int = 0
    initiators: NodeSet = attrs.field(default=NodeSet(), converter=node_set)


@attrs.frozen
class MachineGpu:
    """A display, 3D or accelerator device, as sysfs and its driver show it.

    node: PCI `numa_node`, None for -1. bridge_node: that of its root port (default: the device's own). memory_node: the
    node of its own memory, as in NVIDIA's numa_status; None without that file. memory_affinity, cpu_affinity: as NVML
    reports them, if they are known to differ from the node and its CPUs. bridges: the PCI bridges above it, the root
    port first; None for a root port of its own.
    """

    pci: PciAddress
    node: int | None
    vendor: str = "nvidia"
    device: int = 0
    class_code: int = 0x030200
    model: str = ""
    bridge_node: int | None = None
    memory_affinity: NodeSet | None = attrs.field(default=None, converter=attrs.converters.optional(node_set))
    cpu_affinity: CpuSet | None = attrs.field(default=None, converter=attrs.converters.optional(cpu_set))
    boot_vga: bool | None = None
    memory_node: int | None = None
    bridges: tuple[PciAddress, ...] | None = None

    @property
    def uuid(self) -> str:
        """A made-up UUID that is a function of the PCI address."""
        return f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, str(self.pci))}"


@attrs.frozen
class MachineNic:
    """A network adapter: a PCI function, its RDMA devices and its interfaces.

    node: PCI `numa_node`, None for -1. bridges: as of a GPU.
    """

    pci: PciAddress
    node: int | None
    rdma: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    vendor: str = "mellanox"
    device: int = 0
    class_code: int = 0x020700
    bridges: tuple[PciAddress, ...] | None = None


@attrs.frozen
class CacheSizes:
    """Bytes of the caches: first level (data, instruction) and second level of a core, and an L3; 0 where unknown.

    Of an unknown size an L3 is there all the same; the caches of a core are not.
    """

    data: int = 0
    instruction: int = 0
    l2: int = 0
    l3: int = 0


@attrs.frozen
class Machine:
    """A machine.

    nodes: by ascending id. threads, smt: hardware threads of a core and their numbering. l3_cores: cores that share
    one L3; None for all of a package, 0 for no L3. offline: CPUs that are present but offline. distances: a row for
    each node; empty if the firmware has none (the kernel then shows 10 and 20). gpus: the GPUs, in PCI order. others:
    display devices that are no GPUs (management chips). nics: the network adapters, as far as they are known.
    allowed_cpus, allowed_nodes: the cpuset of a container, None for everything online. name, source: set by
    `machines.get`.
    """

    nodes: tuple[MachineNode, ...]
    threads: int = 1
    smt: Smt = Smt.SPLIT
    l3_cores: int | None = None
    offline: CpuSet = attrs.field(default=CpuSet(), converter=cpu_set)
    distances: tuple[tuple[int, ...], ...] = ()
    gpus: tuple[MachineGpu, ...] = ()
    others: tuple[MachineGpu, ...] = ()
    nics: tuple[MachineNic, ...] = ()
    cache_sizes: CacheSizes = CacheSizes()
    allowed_cpus: CpuSet | None = attrs.field(default=None, converter=attrs.converters.optional(cpu_set))
    allowed_nodes: NodeSet | None = attrs.field(default=None, converter=attrs.converters.optional(node_set))
    name: str = ""
    source: str = ""

    def __str__(self) -> str:
        from affinity.testing.drawing import draw

        return draw(self.topology(), self.allowed_cpus, self.allowed_nodes)

    @cached_property
    def present(self) -> CpuSet:
        """All CPUs, offline ones too."""
        return CpuSet(cpu for node in self.nodes for cpu in node.cpus)

    @cached_property
    def online(self) -> CpuSet:
        return self.present - self.offline

    def online_of(self, node: MachineNode) -> CpuSet:
        return node.cpus - self.offline

    @property
    def gpu_nodes(self) -> tuple[int | None, ...]:
        """The PCI node of each GPU, in PCI order."""
        return tuple(gpu.node for gpu in self.gpus)

    @cached_property
    def distance_rows(self) -> tuple[tuple[int, ...], ...]:
        """The distances as the kernel shows them: those of the firmware, else 10 (local) and 20 (remote)."""
        ids = range(len(self.nodes))
        return self.distances or tuple(tuple(10 if a == b else 20 for b in ids) for a in ids)

    @cached_property
    def cpus(self) -> dict[int, Cpu]:
        """Core, L3 domain and package of every online CPU, each named by its lowest online CPU."""
        whole: dict[int, int] = {}  # CPU -> core, before any CPU went offline
        order = sorted(self.present)
        cores = len(order) // self.threads
        for position, cpu in enumerate(order):
            first = position % cores if self.smt is Smt.SPLIT else position // self.threads * self.threads
            whole[cpu] = order[first]
        package_of = {cpu: node.package for node in self.nodes for cpu in node.cpus}
        l3_of: dict[int, int] = {}
        for package in set(package_of.values()):
            cores_of_package = sorted({whole[cpu] for cpu, other in package_of.items() if other == package})
            share = len(cores_of_package) if self.l3_cores is None else self.l3_cores or 1
            l3_of.update({core: i // share for i, core in enumerate(cores_of_package)})
        core_name: dict[int, int] = {}
        l3_name: dict[tuple[int, int], int] = {}
        for cpu in self.online:
            core_name.setdefault(whole[cpu], cpu)
            l3_name.setdefault((package_of[cpu], l3_of[whole[cpu]]), cpu)
        return {
            cpu: Cpu(cpu, core_name[whole[cpu]], l3_name[package_of[cpu], l3_of[whole[cpu]]], package_of[cpu])
            for cpu in self.online
        }

    def local_cpus(self, node: int | None) -> CpuSet:
        """Return the kernel's `local_cpus` of a device of this node: all online CPUs for -1."""
        if node is None:
            return self.online
        return next((self.online_of(n) for n in self.nodes if n.id == node), CpuSet())

    @cached_property
    def pci_devices(self) -> tuple[PciDevice, ...]:
        return tuple(self._pci_device(d) for d in sorted((*self.gpus, *self.others), key=lambda d: d.pci))

    @cached_property
    def topology_nics(self) -> tuple[Nic, ...]:
        ordered = sorted(self.nics, key=lambda nic: nic.pci)
        return tuple(Nic(self._pci_device(as_device(nic)), nic.rdma, nic.interfaces) for nic in ordered)

    @cached_property
    def pci_paths(self) -> dict[PciAddress, tuple[str, ...]]:
        """The path of each device and of each bridge, from the host bridge."""
        found: dict[PciAddress, tuple[str, ...]] = {}
        for path in (*map(pci_path, (*self.gpus, *self.others)), *map(pci_path, self.nics)):
            found.update({address: path[: i + 2] for i, address in enumerate(map(PciAddress.parse, path[1:]))})
        return found

    @cached_property
    def caches(self) -> tuple[Cache, ...]:
        cores: dict[int, list[int]] = {}
        l3s: dict[int, list[int]] = {}
        for cpu in self.cpus.values():
            cores.setdefault(cpu.core, []).append(cpu.id)
            l3s.setdefault(cpu.l3, []).append(cpu.id)
        sizes = self.cache_sizes
        kinds = ((1, "data", sizes.data), (1, "instruction", sizes.instruction), (2, "unified", sizes.l2))
        found = [Cache(level, kind, size, CpuSet(c)) for level, kind, size in kinds if size for c in cores.values()]
        if self.l3_cores != 0:
            found += [Cache(3, "unified", sizes.l3 or None, CpuSet(domain)) for domain in l3s.values()]
        return tuple(found)

    def _pci_device(self, device: MachineGpu) -> PciDevice:
        bridge = self.local_cpus(device.bridge_node) if device.node is None and device.bridge_node is not None else None
        return PciDevice(
            address=device.pci,
            vendor=VENDORS[device.vendor],
            device=device.device,
            class_code=device.class_code,
            numa_node=device.node,
            local_cpus=self.local_cpus(device.node),
            bridge_cpus=bridge,
            boot_vga=device.boot_vga,
            memory_node=device.memory_node,
        )

    def topology(self) -> Topology:
        """Return the topology that would be read from this machine's sysfs tree."""
        ids = [n.id for n in self.nodes]
        distances = {a: dict(zip(ids, row, strict=True)) for a, row in zip(ids, self.distance_rows, strict=True)}
        memory = {n.id: n.memory for n in self.nodes}
        initiators = {n.id: n.initiators for n in self.nodes if n.initiators}
        source = StaticSource(
            distances,
            memory,
            self.cpus,
            self.pci_devices,
            initiators,
            nics=self.topology_nics,
            pci_paths=self.pci_paths,
            caches=self.caches,
            free_memory=memory,
        )
        nodes = tuple(Node(n.id, self.online_of(n), n.memory > 0) for n in self.nodes)
        return Topology(nodes, Origin.SYNTHETIC, self.name, source)


def pci_path(device: MachineGpu | MachineNic) -> tuple[str, ...]:
    """Return the path of a device as sysfs names it: the host bridge, the bridges, the device.

    A device on bus 0 (of a virtual machine) is on the root bus itself.
    """
    pci = device.pci
    default = (PciAddress(pci.domain, pci.bus - 1, 1, 0),) if pci.bus else ()
    chain = (*(default if device.bridges is None else device.bridges), pci)
    return f"pci{chain[0].domain:04x}:{chain[0].bus:02x}", *map(str, chain)


def as_device(nic: MachineNic) -> MachineGpu:
    """Return the PCI function of an adapter as the record that other devices have."""
    return MachineGpu(nic.pci, nic.node, nic.vendor, nic.device, nic.class_code, bridges=nic.bridges)


def levels(packages: tuple[int, ...], near: int, far: int) -> tuple[tuple[int, ...], ...]:
    """Distances of nodes whose packages are given: 10 on a node, `near` within a package, `far` across."""
    ids = range(len(packages))
    return tuple(tuple(10 if a == b else near if packages[a] == packages[b] else far for b in ids) for a in ids)


def even_nodes(
    count: int, *, cores: int, threads: int = 1, memory: int, packages: int = 1, smt: Smt = Smt.SPLIT
) -> tuple[MachineNode, ...]:
    """`count` nodes of `cores` cores each, numbered as the kernel numbers them, split evenly into packages."""
    total = count * cores
    nodes = []
    for i in range(count):
        if smt is Smt.SPLIT:
            cpus = CpuSet(t * total + i * cores + c for t in range(threads) for c in range(cores))
        else:
            cpus = CpuSet(range(i * cores * threads, (i + 1) * cores * threads))
        nodes.append(MachineNode(i, cpus, memory, i * packages // count))
    return tuple(nodes)


def nics_at(records: str, nodes: tuple[int | None, ...], **same: object) -> tuple[MachineNic, ...]:
    """Adapters from `address=rdma device` (space separated), each with its node, all else the same."""
    found = [record.split("=") for record in records.split()]
    return tuple(
        MachineNic(PciAddress.parse(pci), node, rdma=(name,), **same)  # type: ignore[arg-type]
        for (pci, name), node in zip(found, nodes, strict=True)
    )


def below(ports: str, devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """Put each device below the bridges of its entry, as `15:01.0,16:00.0` (space separated)."""
    chains = [tuple(map(PciAddress.parse, chain.split(","))) for chain in ports.split()]
    return tuple(attrs.evolve(d, bridges=chain) for d, chain in zip(devices, chains, strict=True))


def gpus_at(addresses: str, nodes: tuple[int | None, ...], **same: object) -> tuple[MachineGpu, ...]:
    """GPUs at these addresses (space separated), each with its node, all else the same."""
    found = [PciAddress.parse(text) for text in addresses.split()]
    gpus = (MachineGpu(pci, node, **same) for pci, node in zip(found, nodes, strict=True))  # type: ignore[arg-type]
    return tuple(sorted(gpus, key=lambda gpu: gpu.pci))
