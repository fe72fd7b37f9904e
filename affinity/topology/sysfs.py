"""A topology from sysfs, under any root: this machine's, or a captured tree's.

Layout: Documentation/ABI/stable/sysfs-devices-node, Documentation/ABI/stable/sysfs-devices-system-cpu,
Documentation/ABI/testing/sysfs-bus-pci, Documentation/admin-guide/mm/numaperf.rst. Files may end in NUL or newline;
`cpumap` replaces a missing `cpulist`; a kernel without NUMA has no node directory: then there is one implicit node.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeVar

import attrs

from affinity.errors import ListFormatError, SystemFileError, TopologyError
from affinity.topology.cpuset import MAX_ID, CpuSet, NodeSet
from affinity.topology.model import Cache, Cpu, Nic, Node, Origin, PciAddress, PciDevice, Topology

#: PCI classes of GPUs: VGA, XGA, 3D and other display controllers, and processing accelerators; and that of network
#: adapters (Ethernet, InfiniBand, other fabrics).
_DISPLAY, _ACCELERATOR, _NETWORK = 0x03, 0x12, 0x02

_NVIDIA = 0x10DE

_BLANK = "\0 \t\r\n"

S = TypeVar("S", CpuSet, NodeSet)


def load(root: str = "/") -> Topology:
    """Read the nodes below `root` (which has `sys/` in it); the rest is read on first use.

    Raises TopologyError, naming the file, if one is malformed or no CPU is found.
    """
    source = Sysfs(root)
    online = source.online_cpus()
    if not online:
        expected = "expected sysfs mounted on /sys" if root == "/" else "expected a directory with sys/ in it"
        raise TopologyError(f"{source.path('devices/system/cpu')}: no CPU found; {expected}")
    nodes = source.nodes(online)
    nodeless = online - CpuSet(cpu for node in nodes for cpu in node.cpus)
    return Topology(nodes, Origin.LIVE if root == "/" else Origin.SYSFS, root, source, nodeless)


@attrs.frozen
class Sysfs:
    """The reader behind a topology. Nothing is cached here, `Topology` asks once.

    notes: the records that were left out so far, and why.
    """

    root: str
    notes: list[str] = attrs.field(factory=list, eq=False)

    def path(self, *parts: str) -> str:
        return os.path.join(self.root, "sys", *parts)

    def online_cpus(self) -> CpuSet:
        """Return the CPUs that are switched on. Kernels before 2.6.27 show it in each `cpuN/online` alone."""
        base = self.path("devices/system/cpu")
        online = read_list(CpuSet, os.path.join(base, "online"))
        if online is None:  # a CPU that cannot be switched off has no file
            present = CpuSet(int(n[3:]) for n in _listdir(base) if n.startswith("cpu") and n[3:].isdecimal())
            online = CpuSet(cpu for cpu in present if read_text(os.path.join(base, f"cpu{cpu}", "online")) != "0")
        return online

    def node_ids(self) -> list[int]:
        """Return the online nodes; [] for a kernel without NUMA."""
        base = self.path("devices/system/node")
        ids = sorted(int(n[4:]) for n in _listdir(base) if n.startswith("node") and n[4:].isdecimal())
        online = read_list(NodeSet, os.path.join(base, "online"))
        if online is not None:
            ids = [i for i in ids if i in online]
        if ids and ids[-1] >= MAX_ID:
            raise TopologyError(f"{base}/node{ids[-1]}: a node number over {MAX_ID - 1} is not believable")
        return ids

    def nodes(self, online_cpus: CpuSet) -> tuple[Node, ...]:
        base = self.path("devices/system/node")
        ids = self.node_ids()
        if not ids:
            return (Node(0, online_cpus),)
        with_memory = read_list(NodeSet, os.path.join(base, "has_memory"))
        if with_memory is None:
            sizes = self.memory()
            with_memory = NodeSet(i for i in ids if sizes.get(i, 1))
        nodes = []
        for i in ids:
            cpus = _cpus(os.path.join(base, f"node{i}"), "cpulist", "cpumap")
            if cpus is None:
                raise TopologyError(f"{base}/node{i}: neither cpulist nor cpumap is there; one is expected")
            nodes.append(Node(i, cpus & online_cpus, i in with_memory))
        return tuple(nodes)

    def distances(self) -> Mapping[int, Mapping[int, int]]:
        """Return the rows that fit the online nodes; another is left out with a note."""
        base = self.path("devices/system/node")
        ids = self.node_ids()
        table = {}
        for i in ids:
            file = os.path.join(base, f"node{i}", "distance")
            text = read_text(file)
            if text is None:
                continue
            row = text.split()
            if len(row) == len(ids) and all(map(_is_number, row)):
                table[i] = dict(zip(ids, map(int, row), strict=True))
            else:
                expected = f"one number for each of nodes {NodeSet(ids)} expected"
                self.notes.append(f"{file}: {text[:60]!r} found, {expected}; the distances of node {i} are ignored")
        return table

    def initiators(self) -> Mapping[int, NodeSet]:
        """Return each node's initiators, itself excluded.

        `access1` has CPUs alone (Linux 5.10); `access0` may name a device (a generic initiator) that is faster.
        """
        found = {}
        for i in self.node_ids():
            for access in ("access1", "access0"):
                names = _listdir(self.path("devices/system/node", f"node{i}", access, "initiators"))
                others = {int(n[4:]) for n in names if n.startswith("node") and _is_number(n[4:])} - {i}
                if others:
                    found[i] = NodeSet(n for n in others if n < MAX_ID)
                    break
        return found

    def memory(self) -> Mapping[int, int]:
        sizes = {}
        for node, file, text in self._meminfo():
            size = _kilobytes(text, "MemTotal:")
            if size is None:
                raise TopologyError(f"{file}: no 'MemTotal: … kB' found in {text[:60]!r}")
            sizes[node] = size
        return sizes

    def free_memory(self) -> Mapping[int, int]:
        """Return the bytes free on each node; a node whose file has no such line (in an archive) is left out."""
        sizes = {node: _kilobytes(text, "MemFree:") for node, _, text in self._meminfo()}
        return {node: size for node, size in sizes.items() if size is not None}

    def _meminfo(self) -> Iterator[tuple[int, str, str]]:
        """Yield number, file and text of each node's `meminfo`."""
        base = self.path("devices/system/node")
        for name in _listdir(base):
            file = os.path.join(base, name, "meminfo")
            text = read_text(file) if name.startswith("node") and name[4:].isdecimal() else None
            if text is not None:
                yield int(name[4:]), file, text

    def cpus(self) -> Mapping[int, Cpu]:
        base = self.path("devices/system/cpu")
        online = self.online_cpus()
        nodes: tuple[Node, ...] = ()
        cores: dict[int, int] = {}
        l3s: dict[int, int] = {}
        packages: dict[int, int] = {}
        for cpu in online:
            top = os.path.join(base, f"cpu{cpu}")
            if cpu not in cores:  # one file read per core, per L3 and per package, not per CPU
                for other in self._core(cpu, online):
                    cores[other] = cpu
            if cpu not in packages:
                number = _number(os.path.join(top, "topology"), "physical_package_id")
                same = _package_cpus(os.path.join(top, "topology"))
                if number is None or number < 0:  # the kernel reports -1 for unknown (POWER, s390)
                    number = -1 - cpu  # of its own, until all are known
                    if same is None:  # a node seldom spans packages, so none of another package's CPUs is taken
                        nodes = nodes or self.nodes(online)
                        same = next((node.cpus for node in nodes if cpu in node.cpus), None)
                for other in (cpu, *(same or ())):
                    packages.setdefault(other, number)
            if cpu not in l3s and cores[cpu] == cpu:
                for other in _l3(top) or ():
                    l3s.setdefault(other, cpu)
        numbers = _numbers(packages.values())
        return {cpu: Cpu(cpu, cores[cpu], l3s.get(cpu, cores[cpu]), numbers[packages[cpu]]) for cpu in online}

    def _core(self, cpu: int, online: CpuSet) -> CpuSet:
        """Return the CPUs of this one's core, itself alone without a file that lists them."""
        base = self.path("devices/system/cpu")
        directory = os.path.join(base, f"cpu{cpu}", "topology")
        found = _cpus(directory, "thread_siblings_list", "thread_siblings")
        if found is None:
            return CpuSet([cpu])
        absent = [i for i in found - online if not os.path.isdir(os.path.join(base, f"cpu{i}"))]
        if cpu not in found or absent:
            raise TopologyError(
                f"{directory}/thread_siblings_list (or thread_siblings): CPUs {found or 'none'} found; "
                f"CPUs of this machine expected, and CPU {cpu} among them; repair the file or capture the machine again"
            )
        return found

    def caches(self) -> tuple[Cache, ...]:
        """Return the caches of online CPUs. The files of each are read once, not for each CPU that shares it."""
        base = self.path("devices/system/cpu")
        online = self.online_cpus()
        seen: dict[str, int] = {}  # CPUs by directory name, whose number stands for level and type
        found = []
        for cpu in online:
            for name in _listdir(os.path.join(base, f"cpu{cpu}", "cache")):
                if not name.startswith("index") or seen.get(name, 0) >> cpu & 1:
                    continue
                here = os.path.join(base, f"cpu{cpu}", "cache", name)
                level = _number(here, "level")
                shared = (_cpus(here, "shared_cpu_list", "shared_cpu_map") or CpuSet()) & online | CpuSet([cpu])
                seen[name] = seen.get(name, 0) | shared.bits
                if level is not None:
                    kind = (read_text(os.path.join(here, "type")) or "Unified").lower()
                    found.append(Cache(level, kind, _cache_size(os.path.join(here, "size")), shared))
        return tuple(sorted(found, key=lambda c: (c.level, c.type, c.cpus.first())))

    def pci_devices(self) -> tuple[PciDevice, ...]:
        return self._pci_devices(_DISPLAY, _ACCELERATOR)

    def nics(self) -> tuple[Nic, ...]:
        """Return the PCI functions that are network adapters. Software devices (bridges, Soft-RoCE) are none."""
        names: dict[str, dict[PciAddress, list[str]]] = {}
        for kind in ("infiniband", "net"):
            names[kind] = {}
            for name in sorted(_listdir(self.path("class", kind)), key=_natural):
                address = pci_function(self.path("class", kind, name, "device"))
                if address is not None:
                    names[kind].setdefault(address, []).append(name)
        rdma, interfaces = names["infiniband"], names["net"]
        return tuple(
            Nic(device, tuple(rdma.get(device.address, ())), tuple(interfaces.get(device.address, ())))
            for device in self._pci_devices(_NETWORK, also={*rdma, *interfaces})
        )

    def pci_paths(self) -> Mapping[PciAddress, tuple[str, ...]]:
        """Return the path of each device from its host bridge, by the link in `bus/pci/devices`."""
        base = self.path("bus/pci/devices")
        found = {}
        for name in _listdir(base):
            address = PciAddress.try_parse(name)
            try:
                parts = os.readlink(os.path.join(base, name)).split("/")
            except OSError:  # a captured tree whose links were copied as directories
                continue
            host = next((i for i, part in enumerate(parts) if part.startswith("pci") and ":" in part), None)
            if address is not None and host is not None:
                found[address] = tuple(parts[host:])
        return found

    def _pci_devices(self, *classes: int, also: Collection[PciAddress] = ()) -> tuple[PciDevice, ...]:
        """Return the PCI devices of these classes, and those at the addresses in `also`, in PCI order."""
        base = self.path("bus/pci/devices")
        found = []
        for name in _listdir(base):
            address = PciAddress.try_parse(name)
            here = os.path.join(base, name)
            if address is None or ((_hex(here, "class") or 0) >> 16 not in classes and address not in also):
                continue
            node = _number(here, "numa_node")
            boot = read_text(os.path.join(here, "boot_vga"))
            vendor = _hex(here, "vendor") or 0
            found.append(
                PciDevice(
                    address=address,
                    vendor=vendor,
                    device=_hex(here, "device") or 0,
                    class_code=_hex(here, "class") or 0,
                    numa_node=node if node is not None and node >= 0 else None,
                    local_cpus=_cpus(here, "local_cpulist", "local_cpus"),
                    bridge_cpus=self._bridge_cpus(here) if node is None or node < 0 else None,
                    boot_vga=boot == "1" if boot is not None else None,
                    unique_id=read_text(os.path.join(here, "unique_id")) or "",
                    memory_node=self._memory_node(address) if vendor == _NVIDIA else None,
                )
            )
        return tuple(sorted(found, key=lambda d: d.address))

    def _memory_node(self, address: PciAddress) -> int | None:
        """Return the node that the driver made of this GPU's own memory, None if there is none (online).

        Source: NVIDIA's open kernel modules, kernel-open/nvidia/nv-procfs.c: lines `Node: 255` and `Status: online`.
        """
        file = os.path.join(self.root, "proc/driver/nvidia/gpus", str(address), "numa_status")
        lines = (line.partition(":") for line in (read_text(file) or "").splitlines())
        found = {key.strip(): value.strip() for key, _, value in lines}
        node = found.get("Node", "")
        return int(node) if found.get("Status") == "online" and _is_number(node) and int(node) < MAX_ID else None

    def _bridge_cpus(self, device: str) -> CpuSet | None:
        """Return the CPUs near the closest bridge above whose own node is known."""
        here = os.path.dirname(os.path.realpath(device))
        while PciAddress.try_parse(os.path.basename(here)) is not None:
            node = _number(here, "numa_node")
            if node is not None and node >= 0:
                return _cpus(here, "local_cpulist", "local_cpus")
            here = os.path.dirname(here)
        return None


def _listdir(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as refused:
        raise SystemFileError(refused.errno, refused.strerror, path) from refused


def read_text(path: str) -> str | None:
    """Return a small file's text without its end marks, None if there is no such file.

    In a captured tree it may be a pipe, which would block, or a link to a device, which would never end.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise TopologyError(f"{path}: a pipe or a device found, a regular file expected")
            data = file.read(1 << 20)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as refused:
        raise SystemFileError(refused.errno, refused.strerror, path) from refused
    return data.decode("ascii", errors="replace").strip(_BLANK)


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def read_list(kind: type[S], path: str) -> S | None:
    """Return the set in a file of the kernel's list format, None if there is no such file."""
    text = read_text(path)
    try:
        return None if text is None else kind.parse(text)
    except ListFormatError as wrong:
        raise TopologyError(f"{path}: {wrong}") from wrong


def _cpus(directory: str, list_name: str, mask_name: str) -> CpuSet | None:
    found = read_list(CpuSet, os.path.join(directory, list_name))
    return found if found is not None else _mask(os.path.join(directory, mask_name))


def _mask(path: str) -> CpuSet | None:
    text = read_text(path)
    try:
        return None if text is None else CpuSet.parse_mask(text)
    except ListFormatError as wrong:
        raise TopologyError(f"{path}: {wrong}") from wrong


def _package_cpus(directory: str) -> CpuSet | None:
    """Return the CPUs of a package; `core_siblings` is the name before Linux 5.3."""
    for name in ("package_cpus_list", "core_siblings_list"):
        found = read_list(CpuSet, os.path.join(directory, name))
        if found is not None:
            return found
    return _mask(os.path.join(directory, "core_siblings"))


def _numbers(found: Iterable[int]) -> dict[int, int]:
    """Return each package's number; those without one (below 0) follow the highest, in order of their CPUs."""
    numbers = {number: number for number in found}
    following = max(-1, *numbers) + 1
    unknown = sorted((number for number in numbers if number < 0), reverse=True)
    return numbers | {number: following + i for i, number in enumerate(unknown)}


def _l3(cpu_directory: str) -> CpuSet | None:
    """Return the CPUs that share this one's level 3 cache, None if there is none."""
    base = os.path.join(cpu_directory, "cache")
    for name in _listdir(base):
        here = os.path.join(base, name)
        if name.startswith("index") and read_text(os.path.join(here, "level")) == "3":
            return _cpus(here, "shared_cpu_list", "shared_cpu_map")
    return None


def pci_function(device: str) -> PciAddress | None:
    """Return the PCI function of a `device` link below /sys/class; None for a software device or one on another bus.

    The link leads to the function, or to a child of it (virtio, a mlx5 scalable function).
    """
    here = os.path.realpath(device)
    if not os.path.isdir(here):
        return None
    return PciAddress.try_parse(os.path.basename(here)) or PciAddress.try_parse(os.path.basename(os.path.dirname(here)))


def _natural(name: str) -> list[tuple[str, int]]:
    """Return a key that sorts mlx5_2 before mlx5_10."""
    return [(text, int(digits or -1)) for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name)]


def _kilobytes(text: str, key: str) -> int | None:
    """Return the bytes of a line `key … kB`, None if there is no such line."""
    size = text.partition(key)[2].split(None, 1)[:1]
    return int(size[0]) * 1024 if size and _is_number(size[0]) else None


def _cache_size(path: str) -> int | None:
    """Return the bytes in a cache's `size` (as 32K; Linux, drivers/base/cacheinfo.c), None if it has none."""
    text = read_text(path) or ""
    return int(text[:-1]) * 1024 if text.endswith("K") and _is_number(text[:-1]) else None


def _number(directory: str, name: str) -> int | None:
    path = os.path.join(directory, name)
    text = read_text(path)
    if text is None:
        return None
    if not _is_number(text.removeprefix("-")):
        raise TopologyError(f"{path}: {text!r} found, a number expected")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isdigit() and len(text) <= 12  # int() raises its own error for thousands of digits


def _hex(directory: str, name: str) -> int | None:
    path = os.path.join(directory, name)
    text = read_text(path)
    try:
        return None if text is None else int(text, 16)
    except ValueError:
        raise TopologyError(f"{path}: {text!r} found, a hexadecimal number expected") from None
