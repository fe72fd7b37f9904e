"""A topology from sysfs, under any root: this machine's, or a captured tree's.

Layout: Documentation/ABI/stable/sysfs-devices-node, Documentation/ABI/stable/sysfs-devices-system-cpu,
Documentation/ABI/testing/sysfs-bus-pci, Documentation/admin-guide/mm/numaperf.rst. Files may end in NUL or newline;
`cpumap` replaces a missing `cpulist`; a kernel without NUMA has no node directory: then there is one implicit node.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from typing import TypeVar

import attrs

from affinity.errors import ListFormatError, SystemFileError, TopologyError
from affinity.topology.cpuset import MAX_ID, CpuSet, NodeSet
from affinity.topology.model import Cpu, Node, Origin, PciAddress, PciDevice, Topology

#: PCI classes of GPUs: VGA, XGA, 3D and other display controllers, and processing accelerators.
_DISPLAY, _ACCELERATOR = 0x03, 0x12

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
