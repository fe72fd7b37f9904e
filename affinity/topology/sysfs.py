"""A topology from sysfs, under any root: this machine's, or a captured tree's.

Layout: Documentation/ABI/stable/sysfs-devices-node, Documentation/ABI/stable/sysfs-devices-system-cpu,
Documentation/ABI/testing/sysfs-bus-pci. Files may end in NUL or newline; `cpulist` may be missing and
`cpumap` stand in for it; a kernel without NUMA has no node directory: then there is one implicit node.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import TypeVar

import attrs

from affinity.errors import ListFormatError, TopologyError
from affinity.topology.cpuset import MAX_ID, CpuSet, NodeSet
from affinity.topology.model import Cpu, Node, Origin, PciAddress, PciDevice, Topology

#: PCI classes of GPUs: VGA, XGA, 3D and other display controllers, and processing accelerators.
_DISPLAY, _ACCELERATOR = 0x03, 0x12

_BLANK = "\0 \t\r\n"

S = TypeVar("S", CpuSet, NodeSet)


def load(root: str = "/") -> Topology:
    """Read the nodes below `root` (which has `sys/` in it); the rest is read when asked for.

    Raises TopologyError, naming the file, where one is malformed or nothing is there at all.
    """
    source = Sysfs(root)
    return Topology(source.nodes(), Origin.LIVE if root == "/" else Origin.SYSFS, root, source)


@attrs.frozen
class Sysfs:
    """The reader behind a topology. Nothing is cached here: `Topology` asks once."""

    root: str

    def path(self, *parts: str) -> str:
        return os.path.join(self.root, "sys", *parts)

    def nodes(self) -> tuple[Node, ...]:
        base = self.path("devices/system/node")
        ids = sorted(int(n[4:]) for n in _listdir(base) if n.startswith("node") and n[4:].isdecimal())
        online = _list(NodeSet, os.path.join(base, "online"))
        if online is not None:
            ids = [i for i in ids if i in online]
        if not ids:
            return (Node(0, self._online_cpus()),)
        for i in ids:
            if i >= MAX_ID:
                raise TopologyError(f"{base}/node{i}: a node number over {MAX_ID - 1} is not believable")
        online_cpus = _list(CpuSet, self.path("devices/system/cpu/online"))
        with_memory = _list(NodeSet, os.path.join(base, "has_memory"))
        if with_memory is None:
            sizes = self.memory()
            with_memory = NodeSet(i for i in ids if sizes.get(i, 1))
        nodes = []
        for i in ids:
            cpus = _cpus(os.path.join(base, f"node{i}"), "cpulist", "cpumap")
            if cpus is None:
                raise TopologyError(f"{base}/node{i}: neither cpulist nor cpumap is there; one is expected")
            nodes.append(Node(i, cpus & online_cpus if online_cpus is not None else cpus, i in with_memory))
        seen = CpuSet()
        for node in nodes:
            if not seen.isdisjoint(node.cpus):
                raise TopologyError(f"{base}/node{node.id}: CPUs {seen & node.cpus} are in another node too")
            seen |= node.cpus
        return tuple(nodes)

    def _online_cpus(self) -> CpuSet:
        base = self.path("devices/system/cpu")
        online = _list(CpuSet, os.path.join(base, "online"))
        if online is None:
            online = CpuSet(int(n[3:]) for n in _listdir(base) if n.startswith("cpu") and n[3:].isdecimal())
        if not online:
            raise TopologyError(f"{base}: no CPU found; expected a sysfs tree (a directory with sys/ in it)")
        return online

    def distances(self) -> Mapping[int, Mapping[int, int]]:
        base = self.path("devices/system/node")
        ids = [n.id for n in self.nodes()]
        table = {}
        for i in ids:
            file = os.path.join(base, f"node{i}", "distance")
            text = read_text(file)
            if text is None:
                continue
            row = text.split()
            if len(row) != len(ids) or not all(map(_is_number, row)):
                raise TopologyError(f"{file}: {text!r} found; one number for each of nodes {ids} expected")
            table[i] = dict(zip(ids, map(int, row), strict=True))
        return table

    def memory(self) -> Mapping[int, int]:
        base = self.path("devices/system/node")
        sizes = {}
        for name in _listdir(base):
            file = os.path.join(base, name, "meminfo")
            text = read_text(file) if name.startswith("node") and name[4:].isdecimal() else None
            if text is None:
                continue
            size = text.partition("MemTotal:")[2].split(None, 1)[:1]
            if not size or not _is_number(size[0]):
                raise TopologyError(f"{file}: no 'MemTotal: … kB' found in {text[:60]!r}")
            sizes[int(name[4:])] = int(size[0]) * 1024
        return sizes

    def cpus(self) -> Mapping[int, Cpu]:
        base = self.path("devices/system/cpu")
        found: dict[int, Cpu] = {}
        cores: dict[int, int] = {}
        l3s: dict[int, int] = {}
        packages: dict[int, int] = {}
        for cpu in self._online_cpus():
            top = os.path.join(base, f"cpu{cpu}")
            if cpu not in cores:  # one file read per core, per L3 and per package, not per CPU
                siblings = _cpus(os.path.join(top, "topology"), "thread_siblings_list", "thread_siblings")
                for other in siblings or (cpu,):
                    cores[other] = cpu
            if cpu not in packages:
                package = _number(os.path.join(top, "topology"), "physical_package_id")
                same = _cpus(os.path.join(top, "topology"), "package_cpus_list", "core_siblings_list")
                for other in same or (cpu,):
                    packages[other] = max(package or 0, 0)
                packages[cpu] = max(package or 0, 0)
            if cpu not in l3s and cores[cpu] == cpu:
                for other in _l3(top) or ():
                    l3s[other] = cpu
            found[cpu] = Cpu(cpu, cores[cpu], l3s.get(cpu, cores[cpu]), packages[cpu])
        return found

    def pci_devices(self) -> tuple[PciDevice, ...]:
        base = self.path("bus/pci/devices")
        found = []
        for name in _listdir(base):
            address = PciAddress.try_parse(name)
            here = os.path.join(base, name)
            if address is None or (_hex(here, "class") or 0) >> 16 not in (_DISPLAY, _ACCELERATOR):
                continue
            node = _number(here, "numa_node")
            boot = read_text(os.path.join(here, "boot_vga"))
            found.append(
                PciDevice(
                    address=address,
                    vendor=_hex(here, "vendor") or 0,
                    device=_hex(here, "device") or 0,
                    class_code=_hex(here, "class") or 0,
                    numa_node=node if node is not None and node >= 0 else None,
                    local_cpus=_cpus(here, "local_cpulist", "local_cpus"),
                    bridge_cpus=self._bridge_cpus(here) if node is None or node < 0 else None,
                    boot_vga=boot == "1" if boot is not None else None,
                    unique_id=read_text(os.path.join(here, "unique_id")) or "",
                )
            )
        return tuple(sorted(found, key=lambda d: d.address))

    def _bridge_cpus(self, device: str) -> CpuSet | None:
        """CPUs near the closest bridge above whose own node is known."""
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
        raise TopologyError(f"{path}: {refused.strerror}; a readable directory is expected") from refused


def read_text(path: str) -> str | None:
    """A small file's text without its end marks; None where it is not there.

    In a stranger's tree it may be a pipe, that never answers, or a link to a device, that never ends.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise TopologyError(f"{path}: a pipe or a device found, a regular file expected")
            data = file.read(1 << 20)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as refused:
        raise TopologyError(f"{path}: {refused.strerror}; a readable file is expected") from refused
    return data.decode("ascii", errors="replace").strip(_BLANK)


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _list(kind: type[S], path: str) -> S | None:
    text = read_text(path)
    try:
        return None if text is None else kind.parse(text)
    except ListFormatError as wrong:
        raise TopologyError(f"{path}: {wrong}") from wrong


def _cpus(directory: str, list_name: str, mask_name: str) -> CpuSet | None:
    found = _list(CpuSet, os.path.join(directory, list_name))
    if found is not None or mask_name.endswith("_list"):
        return found if found is not None else _list(CpuSet, os.path.join(directory, mask_name))
    path = os.path.join(directory, mask_name)
    text = read_text(path)
    try:
        return None if text is None else CpuSet.parse_mask(text)
    except ListFormatError as wrong:
        raise TopologyError(f"{path}: {wrong}") from wrong


def _l3(cpu_directory: str) -> CpuSet | None:
    """The CPUs that share this one's level 3 cache; None where there is none."""
    base = os.path.join(cpu_directory, "cache")
    for name in _listdir(base):
        here = os.path.join(base, name)
        if name.startswith("index") and read_text(os.path.join(here, "level")) == "3":
            return _cpus(here, "shared_cpu_list", "shared_cpu_map")
    return None


def _number(directory: str, name: str) -> int | None:
    path = os.path.join(directory, name)
    text = read_text(path)
    if text is None:
        return None
    if not _is_number(text.removeprefix("-")):
        raise TopologyError(f"{path}: {text!r} found, a number expected")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isdigit() and len(text) <= 12  # int() refuses thousands of digits in its own words


def _hex(directory: str, name: str) -> int | None:
    path = os.path.join(directory, name)
    text = read_text(path)
    try:
        return None if text is None else int(text, 16)
    except ValueError:
        raise TopologyError(f"{path}: {text!r} found, a hexadecimal number expected") from None
