"""A machine in an archive: the files that a topology is read from, and nothing that identifies its owner.

The archive holds `sys/…`, some settings of the kernel in `proc/sys/…`, two lines of `proc/self/status` and two of each
GPU's `numa_status`. It has no host name, serial number, UUID or hardware address: files are chosen by name. Left out
are the directories between a device and its host bridge, which on some hypervisors are named by an identifier, and
interface names made of one. Archives of hwloc-gather-topology(1), with one directory at the top, are read too.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from affinity.errors import SystemFileError, TopologyError
from affinity.topology.allowed import read_allowed
from affinity.topology.model import PciAddress, Topology
from affinity.topology.synthetic import StaticSource
from affinity.topology.sysfs import Sysfs, pci_function

#: An archive that unpacks to more is not a machine's.
MAX_FILES, MAX_BYTES = 500_000, 1 << 30

_NODE = ("cpulist", "cpumap", "distance", "meminfo")
_NODES = ("online", "possible", "has_cpu", "has_memory")
#: Of each group the first that is there: the others hold the same.
_TOPOLOGY = (
    ("physical_package_id",),
    ("thread_siblings_list", "thread_siblings"),
    ("package_cpus_list", "core_siblings_list", "core_siblings"),
)
_CACHE = ("level", "type", "size", "shared_cpu_list", "shared_cpu_map")
#: A device name made of a MAC address or a GUID (systemd.net-naming-scheme(7), rdma-core's rdma_rename).
_IDENTIFIER = re.compile(r"[0-9a-f]{12}")
#: Settings of the kernel that `affinity doctor` checks.
_SETTINGS = (
    ("proc/sys/kernel", "numa_balancing"),
    ("proc/sys/vm", "zone_reclaim_mode"),
    ("proc/sys/vm", "overcommit_memory"),
    ("sys/kernel/mm/transparent_hugepage", "enabled"),
    ("sys/devices/system/cpu/smt", "active"),
    ("sys/devices/system/cpu", "offline"),
    ("sys/devices/system/cpu/cpufreq/policy0", "scaling_governor"),
)
_PCI = ("class", "vendor", "device", "numa_node", "local_cpulist", "local_cpus", "boot_vga")


def write_archive(archive: str, root: str = "/") -> tuple[str, ...]:
    """Write the archive and return the paths in it.

    Raises OSError if it exists or cannot be written, TopologyError if `root` is no machine's.
    """
    found = _Capture(root)
    found.collect()
    with (
        open(archive, "xb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path, data in sorted(found.files.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for path, target in sorted(found.links.items()):
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return (*sorted(found.files), *sorted(found.links))


@contextmanager
def extracted(archive: str) -> Iterator[str]:
    """Yield the archive's root directory (with `sys/` in it), which is deleted after the block.

    Raises TopologyError if the file is no archive of a machine, or has a path that leaves its directory.
    """
    try:
        scratch = tempfile.TemporaryDirectory(prefix="affinity-")
    except OSError as refused:
        raise TopologyError(f"{archive}: no temporary directory: {refused.strerror}; set TMPDIR") from refused
    with scratch as directory:
        try:
            with tarfile.open(archive) as tar:
                _extract(tar, directory)
            inside = [directory, *(entry.path for entry in os.scandir(directory) if entry.is_dir())]
        except (tarfile.TarError, EOFError, OSError) as wrong:
            if isinstance(wrong, OSError) and wrong.errno:  # a damaged archive's error has no number
                raise SystemFileError(wrong.errno, wrong.strerror, archive) from wrong
            first = str(wrong).partition("\n")[0].rstrip(":")
            raise TopologyError(f"{archive}: {first}; expected what `affinity gather` writes") from wrong
        roots = [place for place in inside if os.path.isdir(os.path.join(place, "sys"))]
        if not roots:
            raise TopologyError(f"{archive}: no directory 'sys' in it; expected what `affinity gather` writes")
        yield roots[0]


def _extract(tar: tarfile.TarFile, directory: str) -> None:
    """Write an archive's members. Raise TarError if one would be outside the directory, or is too much.

    Not by `extractall(filter="data")`, which Debian 12's Python 3.11.2 does not have. Links are made last: nothing is
    written through one.
    """
    links: dict[str, str] = {}
    count = size = 0
    for member in tar:
        count, size = count + 1, size + member.size
        if count > MAX_FILES or size > MAX_BYTES:
            raise tarfile.ExtractError("too large")
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        path = os.path.join(directory, *parts)
        content = tar.extractfile(member) if member.isreg() else None
        if ".." in parts or not (member.isdir() or member.issym() or content is not None):
            raise tarfile.ExtractError(f"{member.name!r} in it is outside its directory, or no file")
        if member.issym():
            links[path] = member.linkname
        elif content is None:
            os.makedirs(path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content.read())
    for path, target in links.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
    top = os.path.realpath(directory)
    for path in links:
        if os.path.commonpath((top, os.path.realpath(path))) != top:
            raise tarfile.ExtractError(f"{os.path.relpath(path, directory)!r} in it is a link out of its directory")


def loaded(topology: Topology, detail: str) -> Topology:
    """Return the topology with every fact read now, so that its files can be deleted."""
    source = StaticSource(
        topology.distances,
        topology.memory,
        topology.cpus,
        topology.pci_devices,
        topology.initiators,
        nics=topology.nics,
        pci_paths=topology.pci_paths,
        caches=topology.caches,
        free_memory=topology.free_memory,
        notes=topology.notes,
    )
    return attrs.evolve(topology, detail=detail, source=source)


@attrs.define
class _Capture:
    """The contents of an archive: files with their bytes, links with their targets."""

    root: str
    files: dict[str, bytes] = attrs.field(factory=dict)
    links: dict[str, str] = attrs.field(factory=dict)

    def _read(self, source: str, names: tuple[str, ...], target: str = "") -> bool:
        """Take those of these files that exist; return whether any does."""
        before = len(self.files)
        for name in names:
            try:
                with open(os.path.join(self.root, source, name), "rb") as file:
                    self.files[f"{target or source}/{name}"] = file.read()
            except OSError:
                continue  # older kernels lack some, and a topology can do without them
        return len(self.files) > before

    def _filter_lines(self, path: str, *wanted: bytes) -> None:
        """Keep the lines with one of these words of a file that was taken."""
        if path in self.files:
            lines = self.files[path].splitlines(keepends=True)
            self.files[path] = b"".join(line for line in lines if any(word in line for word in wanted))

    def collect(self) -> None:
        nodes, cpus = "sys/devices/system/node", "sys/devices/system/cpu"
        self._read(nodes, _NODES)
        self._read(cpus, ("present", "possible"))
        online = Sysfs(self.root).online_cpus()
        if not online:
            raise TopologyError(f"{self.root}: no sys/devices/system/cpu/online in it; expected / or a captured tree")
        self.files[f"{cpus}/online"] = f"{online}\n".encode("ascii")  # in full, also for a kernel without this file
        for name in _names(self.root, nodes, "node"):
            self._read(f"{nodes}/{name}", _NODE)
            self._filter_lines(f"{nodes}/{name}/meminfo", b"MemTotal:")  # memory usage is not part of the archive
            for access in ("access0", "access1"):
                here = f"{nodes}/{name}/{access}/initiators"
                for other in _names(self.root, here, "node"):
                    self.links[f"{here}/{other}"] = f"../../../{other}"
        for name in _names(self.root, cpus, "cpu"):
            for group in _TOPOLOGY:
                any(self._read(f"{cpus}/{name}/topology", (file,)) for file in group)
            for index in _names(self.root, f"{cpus}/{name}/cache", "index"):
                self._read(f"{cpus}/{name}/cache/{index}", _CACHE)
        adapters = self._adapters()
        for name in _listdir(os.path.join(self.root, "sys/bus/pci/devices")):
            self._pci(name, wanted=name in adapters.values())
        for link, name in adapters.items():
            target = self.links.get(f"sys/bus/pci/devices/{name}")
            if target is not None:
                self.links[link] = target  # both links are four directories deep
        for directory, name in _SETTINGS:
            self._read(directory, (name,))
        if self._read("proc/self", ("status",)):
            self._filter_lines("proc/self/status", b"Cpus_allowed_list:", b"Mems_allowed_list:")
        else:  # an archive of another tool: its cpuset's files hold the same
            allowed = read_allowed(self.root)
            lines = (("Cpus_allowed_list", allowed.cpus), ("Mems_allowed_list", allowed.nodes))
            self.files["proc/self/status"] = "".join(f"{k}:\t{v}\n" for k, v in lines if v is not None).encode("ascii")

    def _adapters(self) -> dict[str, str]:
        """Return the PCI function of each network interface and RDMA device, by its `device` link."""
        found = {}
        for kind in ("infiniband", "net"):
            for name in _listdir(os.path.join(self.root, "sys/class", kind)):
                link = f"sys/class/{kind}/{name}/device"
                function = pci_function(os.path.join(self.root, link))
                if function is not None and not _IDENTIFIER.search(name):
                    found[link] = str(function)
        return found

    def _pci(self, name: str, *, wanted: bool) -> None:
        """Take a display, accelerator or network device, or one that is wanted anyway, with the bridges above it."""
        here = os.path.realpath(os.path.join(self.root, "sys/bus/pci/devices", name))
        try:
            with open(os.path.join(here, "class"), "rb") as file:
                wanted = file.read(4) in (b"0x02", b"0x03", b"0x12") or wanted
        except OSError:
            return
        chain = [here] if wanted and PciAddress.try_parse(name) is not None else []
        while chain and PciAddress.try_parse(os.path.basename(os.path.dirname(chain[0]))) is not None:
            chain.insert(0, os.path.dirname(chain[0]))
        top = PciAddress.try_parse(os.path.basename(chain[0])) if chain else None
        home = f"devices/pci{top.domain:04x}:{top.bus:02x}" if top is not None else ""
        for function in chain:
            home += f"/{os.path.basename(function)}"
            self._read(os.path.relpath(function, self.root), _PCI, f"sys/{home}")
            self.links[f"sys/bus/pci/devices/{os.path.basename(function)}"] = f"../../../{home}"
        if chain:
            driver = f"proc/driver/nvidia/gpus/{name}"
            self._read(driver, ("numa_status",))
            self._filter_lines(f"{driver}/numa_status", b"Node:", b"Status:")


def _names(root: str, directory: str, prefix: str) -> list[str]:
    """Return names like `node12` in a directory, in order."""
    found = [n for n in _listdir(os.path.join(root, directory)) if n.startswith(prefix) and n[len(prefix) :].isdigit()]
    return sorted(found, key=lambda n: int(n[len(prefix) :]))


def _listdir(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []
