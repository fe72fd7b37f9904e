"""`Machine`: the data that a simulated machine consists of."""

from __future__ import annotations

import enum
import uuid
from functools import cached_property

import attrs

from affinity.topology.cpuset import CpuSet, NodeSet
from affinity.topology.model import Cpu, Node, Origin, PciAddress, PciDevice, Topology
from affinity.topology.synthetic import StaticSource

GiB = 1 << 30

VENDORS = {"nvidia": 0x10DE, "amd": 0x1002, "intel": 0x8086, "aspeed": 0x1A03, "matrox": 0x102B}


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
    cpus: CpuSet
    memory: int
    package: int = 0
    initiators: NodeSet = NodeSet()


@attrs.frozen
class MachineGpu:
    """A display, 3D or accelerator device, as sysfs and its driver show it.

    node: PCI `numa_node`, None for -1. bridge_node: that of its root port (default: the device's own). memory_node: the
    node of its own memory, as in NVIDIA's numa_status; None without that file. memory_affinity, cpu_affinity: as NVML
    reports them, if they are known to differ from the node and its CPUs.
    """

    pci: PciAddress
    node: int | None
    vendor: str = "nvidia"
    device: int = 0
    class_code: int = 0x030200
    model: str = ""
    bridge_node: int | None = None
    memory_affinity: NodeSet | None = None
    cpu_affinity: CpuSet | None = None
    boot_vga: bool | None = None
    memory_node: int | None = None

    @property
    def uuid(self) -> str:
        """A made-up UUID that is a function of the PCI address."""
        return f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, str(self.pci))}"


@attrs.frozen
class Machine:
    """A machine.

    nodes: by ascending id. threads, smt: hardware threads of a core and their numbering. l3_cores: cores that share
    one L3; None for all of a package, 0 for no L3. offline: CPUs that are present but offline. distances: a row for
    each node; empty if the firmware has none (the kernel then shows 10 and 20). gpus: the GPUs, in PCI order. others:
    display devices that are no GPUs (management chips). allowed_cpus, allowed_nodes: the cpuset of a container, None
    for everything online. name, source: set by `machines.get`.
    """

    nodes: tuple[MachineNode, ...]
    threads: int = 1
    smt: Smt = Smt.SPLIT
    l3_cores: int | None = None
    offline: CpuSet = CpuSet()
    distances: tuple[tuple[int, ...], ...] = ()
    gpus: tuple[MachineGpu, ...] = ()
    others: tuple[MachineGpu, ...] = ()
    allowed_cpus: CpuSet | None = None
    allowed_nodes: NodeSet | None = None
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
        source = StaticSource(distances, memory, self.cpus, self.pci_devices, initiators)
        nodes = tuple(Node(n.id, self.online_of(n), n.memory > 0) for n in self.nodes)
        return Topology(nodes, Origin.SYNTHETIC, self.name, source)


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


def gpus_at(addresses: str, nodes: tuple[int | None, ...], **same: object) -> tuple[MachineGpu, ...]:
    """GPUs at these addresses (space separated), each with its node, all else the same."""
    found = [PciAddress.parse(text) for text in addresses.split()]
    gpus = (MachineGpu(pci, node, **same) for pci, node in zip(found, nodes, strict=True))  # type: ignore[arg-type]
    return tuple(sorted(gpus, key=lambda gpu: gpu.pci))
