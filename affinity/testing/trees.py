"""Write a machine's sysfs tree, for tests of code that reads one.

Layout: Documentation/ABI/stable/sysfs-devices-node, Documentation/ABI/stable/sysfs-devices-system-cpu,
Documentation/ABI/testing/sysfs-bus-pci, Documentation/admin-guide/mm/numaperf.rst, proc(5). PCI devices are links from
`bus/pci/devices` to directories below their bridges, as on Linux, so that a device's parents can be read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import attrs

from affinity.testing.machines.model import VENDORS, Machine, MachineGpu, as_device, pci_path
from affinity.topology.cpuset import CpuSet, NodeSet
from affinity.topology.model import PciAddress

Put = Callable[[str, object], None]


def write(
    machine: Machine, root: str | os.PathLike[str], *, nul: bool = False, lists: bool = True, status: bool = True
) -> str:
    """Write `root/sys/…` and `root/proc/…`; return `root` as text.

    nul: end every file with a NUL byte, as some kernels do. lists: False omits `cpulist`, `*_list` and `local_cpulist`,
    so only the masks exist. status: False omits `proc/self/status`.
    """
    base, end = Path(root), "\0" if nul else ""
    made: set[str] = set()

    def put(path: str, value: object) -> None:
        leaf = os.path.basename(path)
        if not lists and (leaf.endswith("_list") or leaf in ("cpulist", "local_cpulist")):
            return
        file = os.path.join(base, path)
        if os.path.dirname(file) not in made:
            os.makedirs(os.path.dirname(file), exist_ok=True)
            made.add(os.path.dirname(file))
        with open(file, "wb") as out:
            out.write(f"{value}\n{end}".encode("ascii"))

    _nodes(machine, put)
    _initiators(machine, base)
    _cpus(machine, put)
    (base / "sys/bus/pci/devices").mkdir(parents=True, exist_ok=True)
    for device in (*machine.gpus, *machine.others, *map(as_device, machine.nics)):
        _pci(machine, device, base, put)
    for nic in machine.nics:
        function = base / "sys/bus/pci/devices" / str(nic.pci)
        for kind, names in (("infiniband", nic.rdma), ("net", nic.interfaces)):
            for name in names:  # as on Linux: a link to the device's directory, which links back to the function
                home = f"{'/'.join(('devices', *pci_path(nic)))}/{kind}/{name}"
                _link(base / "sys" / home / "device", f"../../../{function.name}")
                _link(base / "sys/class" / kind / name, f"../../{home}")
    if status:
        cpus = machine.online if machine.allowed_cpus is None else machine.allowed_cpus
        nodes = NodeSet(n.id for n in machine.nodes) if machine.allowed_nodes is None else machine.allowed_nodes
        put("proc/self/status", f"Name:\tworker\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{nodes}")
    return str(root)


def sparse(machine: Machine, step: int = 4) -> Machine:
    """Return the machine with every node number multiplied, so that the numbers are sparse."""

    def moved(node: int | None) -> int | None:
        return None if node is None else node * step

    def nodes(found: NodeSet) -> NodeSet:
        return NodeSet(n * step for n in found)

    def gpu(device: MachineGpu) -> MachineGpu:
        affinity = device.memory_affinity
        return attrs.evolve(
            device,
            node=moved(device.node),
            bridge_node=moved(device.bridge_node),
            memory_node=moved(device.memory_node),
            memory_affinity=None if affinity is None else nodes(affinity),
        )

    return attrs.evolve(
        machine,
        nodes=tuple(attrs.evolve(n, id=n.id * step, initiators=nodes(n.initiators)) for n in machine.nodes),
        gpus=tuple(map(gpu, machine.gpus)),
        others=tuple(map(gpu, machine.others)),
        nics=tuple(attrs.evolve(nic, node=moved(nic.node)) for nic in machine.nics),
        allowed_nodes=None if machine.allowed_nodes is None else nodes(machine.allowed_nodes),
    )


def wide_domains(machine: Machine, above: int = 0x10000) -> Machine:
    """Return the machine with its GPUs in 32-bit PCI domains (`10000:1b:00.0`), as behind a VMD or a hypervisor."""

    def wide(device: MachineGpu) -> MachineGpu:
        return attrs.evolve(device, pci=attrs.evolve(device.pci, domain=device.pci.domain + above))

    return attrs.evolve(machine, gpus=tuple(map(wide, machine.gpus)))


def mask(cpus: CpuSet, width: int) -> str:
    """Return the kernel's mask format for a machine with `width` CPUs: 32-bit words, highest first."""
    words = max(1, -(-width // 32))
    return ",".join(f"{cpus.bits >> 32 * i & 0xFFFFFFFF:08x}" for i in reversed(range(words)))


def _nodes(machine: Machine, put: Put) -> None:
    base = "sys/devices/system/node"
    ids = NodeSet(n.id for n in machine.nodes)
    memory = NodeSet(n.id for n in machine.nodes if n.memory)
    put(f"{base}/online", ids)
    put(f"{base}/possible", f"0-{max(ids)}" if max(ids) else "0")
    put(f"{base}/has_cpu", NodeSet(n.id for n in machine.nodes if machine.online_of(n)))
    put(f"{base}/has_memory", memory)
    put(f"{base}/has_normal_memory", memory)
    width = max(machine.present) + 1
    for node, row in zip(machine.nodes, machine.distance_rows, strict=True):
        here = f"{base}/node{node.id}"
        put(f"{here}/cpulist", machine.online_of(node))
        put(f"{here}/cpumap", mask(machine.online_of(node), width))
        put(f"{here}/distance", " ".join(map(str, row)))
        size = node.memory >> 10  # an idle machine: all of it is free
        put(f"{here}/meminfo", f"Node {node.id} MemTotal:  {size:>12} kB\nNode {node.id} MemFree:   {size:>12} kB")


def _initiators(machine: Machine, base: Path) -> None:
    """Write a link to each initiator below `access0`, and below `access1`, which has those with CPUs alone."""
    for node in machine.nodes:
        for access in ("access0", "access1") if node.initiators else ():
            here = base / f"sys/devices/system/node/node{node.id}/{access}/initiators"
            for other in node.initiators:
                _link(here / f"node{other}", f"../../../node{other}")


def _cpus(machine: Machine, put: Put) -> None:
    base = "sys/devices/system/cpu"
    put(f"{base}/online", machine.online)
    put(f"{base}/offline", machine.offline)
    put(f"{base}/present", machine.present)
    put(f"{base}/possible", machine.present)
    width = max(machine.present) + 1
    groups: dict[tuple[str, int], list[int]] = {}
    for cpu in machine.cpus.values():
        for kind, lowest in (("core", cpu.core), ("package", cpu.package)):
            groups.setdefault((kind, lowest), []).append(cpu.id)
    lists = {key: str(CpuSet(members)) for key, members in groups.items()}
    masks = {key: mask(CpuSet(members), width) for key, members in groups.items()}
    for cpu in machine.cpus.values():
        here = f"{base}/cpu{cpu.id}"
        core, package = ("core", cpu.core), ("package", cpu.package)
        put(f"{here}/topology/physical_package_id", cpu.package)
        put(f"{here}/topology/thread_siblings_list", lists[core])
        put(f"{here}/topology/thread_siblings", masks[core])
        put(f"{here}/topology/package_cpus_list", lists[package])
        put(f"{here}/topology/core_siblings", masks[package])
    index = {(1, "data"): 0, (1, "instruction"): 1, (2, "unified"): 2, (3, "unified"): 3}
    for cache in machine.caches:
        number = index[cache.level, cache.type]
        shared, shared_mask = str(cache.cpus), mask(cache.cpus, width)
        for cpu_id in cache.cpus:
            here = f"{base}/cpu{cpu_id}/cache/index{number}"
            put(f"{here}/level", cache.level)
            put(f"{here}/type", cache.type.capitalize())
            if cache.size is not None:
                put(f"{here}/size", f"{cache.size >> 10}K")
            put(f"{here}/shared_cpu_list", shared)
            put(f"{here}/shared_cpu_map", shared_mask)
    for cpu_id in machine.offline:
        put(f"{base}/cpu{cpu_id}/online", 0)


def _pci(machine: Machine, device: MachineGpu, base: Path, put: Put) -> None:
    """Write a device below its bridges."""
    host, *above = pci_path(device)[:-1]
    node = device.node if device.bridge_node is None else device.bridge_node
    bridges = (MachineGpu(PciAddress.parse(name), node, "intel", class_code=0x060400) for name in above)
    home = f"devices/{host}"
    for function in (*bridges, device):
        home += f"/{function.pci}"
        cpus = machine.local_cpus(function.node)
        put(f"sys/{home}/class", f"0x{function.class_code:06x}")
        put(f"sys/{home}/vendor", f"0x{VENDORS[function.vendor]:04x}")
        put(f"sys/{home}/device", f"0x{function.device:04x}")
        put(f"sys/{home}/numa_node", -1 if function.node is None else function.node)
        put(f"sys/{home}/local_cpulist", cpus)
        put(f"sys/{home}/local_cpus", mask(cpus, max(machine.present) + 1))
        if function.boot_vga is not None:
            put(f"sys/{home}/boot_vga", int(function.boot_vga))
        if function.memory_node is not None:
            status = f"Node:      {function.memory_node}\nStatus:    online"
            put(f"proc/driver/nvidia/gpus/{function.pci}/numa_status", status)
        _link(base / "sys/bus/pci/devices" / str(function.pci), f"../../../{home}")


def _link(link: Path, target: str) -> None:
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
