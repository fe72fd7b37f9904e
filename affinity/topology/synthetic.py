"""A topology from one line of text, for plans and tests on machines that are not here.

Grammar (after hwloc's synthetic descriptions; see hwloc(7)):

    line   = level { " " level }                      outermost level first
    level  = name ":" count                           count of these in each of the level above
    name   = "pack" | "numa" | "l3" | "core" | "pu"   in this order; each at most once; missing ones count 1
           | "gpu"                                    GPUs on each NUMA node
           | "nic"                                    RDMA adapters on each NUMA node; stands last
    numa   may carry memory:  "numa:2(memory=64GiB)"  units KiB MiB GiB TiB; 0 is a memory-less node
    gpu    may carry a vendor: "gpu:4(vendor=amd)"    nvidia (default), amd, intel

`pack:2 numa:2 l3:2 core:4 pu:2 gpu:1` is two packages of two nodes, each with two L3 domains of four cores
with two hardware threads, and one GPU a node. CPUs are numbered consecutively, the siblings of a core side by
side. Distances are 10 within a node, 12 within a package, 21 across. Each GPU has a PCI bus of its own, which the
adapters of its node share in turn. Caches are L3 domains of unknown size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import attrs

from affinity.errors import SyntheticError
from affinity.topology.cpuset import MAX_ID, CpuSet, NodeSet
from affinity.topology.model import Cache, Cpu, Nic, Node, Origin, PciAddress, PciDevice, Topology

_LEVELS = ("pack", "numa", "l3", "core", "pu", "gpu", "nic")
_DEVICES = ("gpu", "nic")
_TOKEN = re.compile(r"(?P<name>[a-z0-9]+):(?P<count>[0-9]{1,6})(?:\((?P<key>[a-z]+)=(?P<value>[A-Za-z0-9]+)\))?\Z")
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "": 1}
_VENDORS = {"nvidia": 0x10DE, "amd": 0x1002, "intel": 0x8086}
_MELLANOX = 0x15B3
_DEFAULT_MEMORY = 64 << 30

#: Adapters on one PCI bus: devices 1 to 31, beside a GPU at 0.
_BUS = 31

#: The largest CONFIG_NODES_SHIFT; distances are a table of nodes by nodes.
MAX_NODES = 1024


def load(text: str) -> Topology:
    """Return the machine that the line describes. Raises SyntheticError, pointing at the token."""
    counts, memory, vendor = _parse(text)
    packages, per_package, l3s, cores, pus, gpus, nics = (
        counts.get(level, int(level not in _DEVICES)) for level in _LEVELS
    )
    total = packages * per_package * l3s * cores * pus
    if packages * per_package > MAX_NODES:
        raise SyntheticError(f"{text!r} has {packages * per_package} nodes: Linux stops at {MAX_NODES}")
    if total > MAX_ID or packages * per_package * max(gpus, nics) > MAX_ID:
        raise SyntheticError(f"{text!r} has {total} CPUs: at most {MAX_ID} CPUs, GPUs and adapters are supported")
    width = l3s * cores * pus
    nodes: list[Node] = []
    cpus: dict[int, Cpu] = {}
    devices: list[PciDevice] = []
    adapters: list[Nic] = []
    buses = max(gpus, -(-nics // _BUS))  # of each node
    for node in range(packages * per_package):
        first = node * width
        here = CpuSet.from_bits(((1 << width) - 1) << first)
        nodes.append(Node(node, here, memory > 0))
        for cpu in here:
            offset = cpu - first
            cpus[cpu] = Cpu(
                id=cpu,
                core=cpu - offset % pus,
                l3=cpu - offset % (cores * pus),
                package=node // per_package,
            )
        for i in range(gpus):
            address = _address(node * buses + i, 0)
            devices.append(PciDevice(address, vendor, 0, 0x030200, numa_node=node, local_cpus=here))
        for i in range(nics):
            address = _address(node * buses + i % buses, 1 + i // buses)
            adapter = PciDevice(address, _MELLANOX, 0, 0x020700, numa_node=node, local_cpus=here)
            adapters.append(Nic(adapter, (f"mlx5_{len(adapters)}",)))
    ids = range(len(nodes))
    distances = {a: {b: 10 if a == b else 12 if a // per_package == b // per_package else 21 for b in ids} for a in ids}
    l3_domains: dict[int, int] = {}
    for found in cpus.values():
        l3_domains[found.l3] = l3_domains.get(found.l3, 0) | 1 << found.id
    source = StaticSource(
        distances,
        {n.id: memory for n in nodes},
        cpus,
        tuple(devices),
        nics=tuple(sorted(adapters, key=lambda nic: nic.address)),
        pci_paths={d.address: _path(d.address) for d in (*devices, *(nic.device for nic in adapters))},
        caches=tuple(Cache(3, "unified", None, CpuSet.from_bits(bits)) for bits in l3_domains.values()),
    )
    return Topology(tuple(nodes), Origin.SYNTHETIC, text, source)


@attrs.frozen
class StaticSource:
    """A topology source whose facts are all known from the start."""

    _distances: Mapping[int, Mapping[int, int]] = attrs.field(factory=dict)
    _memory: Mapping[int, int] = attrs.field(factory=dict)
    _cpus: Mapping[int, Cpu] = attrs.field(factory=dict)
    _pci_devices: tuple[PciDevice, ...] = ()
    _initiators: Mapping[int, NodeSet] = attrs.field(factory=dict)
    notes: Sequence[str] = ()
    _nics: tuple[Nic, ...] = ()
    _pci_paths: Mapping[PciAddress, tuple[str, ...]] = attrs.field(factory=dict)
    _caches: tuple[Cache, ...] = ()
    _free_memory: Mapping[int, int] = attrs.field(factory=dict)

    def distances(self) -> Mapping[int, Mapping[int, int]]:
        return self._distances

    def initiators(self) -> Mapping[int, NodeSet]:
        return self._initiators

    def memory(self) -> Mapping[int, int]:
        return self._memory

    def cpus(self) -> Mapping[int, Cpu]:
        return self._cpus

    def pci_devices(self) -> tuple[PciDevice, ...]:
        return self._pci_devices

    def nics(self) -> tuple[Nic, ...]:
        return self._nics

    def pci_paths(self) -> Mapping[PciAddress, tuple[str, ...]]:
        return self._pci_paths

    def caches(self) -> tuple[Cache, ...]:
        return self._caches

    def free_memory(self) -> Mapping[int, int]:
        return self._free_memory


def _parse(text: str) -> tuple[dict[str, int], int, int]:
    counts: dict[str, int] = {}
    memory, vendor, position = _DEFAULT_MEMORY, _VENDORS["nvidia"], -1
    tokens = list(re.finditer(r"\S+", text))
    if not tokens:
        raise SyntheticError("an empty machine: expected e.g. 'pack:2 numa:2 core:4 pu:2 gpu:1'")
    for found in tokens:

        def wrong(why: str, at: re.Match[str] = found) -> SyntheticError:
            return SyntheticError(f"{why}\n  {text}\n  {' ' * at.start()}{'^' * (at.end() - at.start())}")

        token = _TOKEN.match(found.group())
        if token is None:
            raise wrong(f"{found.group()!r} is no level: expected e.g. core:4 (names: {', '.join(_LEVELS)})")
        name, count = token["name"], int(token["count"])
        if name not in _LEVELS:
            raise wrong(f"level {name!r} is not known: expected one of {', '.join(_LEVELS)}")
        if _LEVELS.index(name) <= position:
            raise wrong(f"level {name!r} stands twice or too late: expected order {' '.join(_LEVELS)}")
        if not count and name not in _DEVICES:
            raise wrong(f"level {name!r} has no members: expected a count of 1 or more")
        position = _LEVELS.index(name)
        counts[name] = count
        match name, token["key"]:
            case _, None:
                pass
            case "numa", "memory":
                size = re.fullmatch(r"(\d{1,9})([KMGT]iB)?", token["value"])
                if size is None:
                    raise wrong(f"memory {token['value']!r} is no size: expected e.g. 64GiB")
                memory = int(size[1]) * _UNITS[size[2] or ""]
            case "gpu", "vendor":
                if token["value"] not in _VENDORS:
                    raise wrong(f"vendor {token['value']!r} is not known: expected one of {', '.join(_VENDORS)}")
                vendor = _VENDORS[token["value"]]
            case _, key:
                raise wrong(f"{key!r} is no attribute of {name!r}: numa takes memory, gpu takes vendor")
    return counts, memory, vendor


def _address(bus: int, slot: int) -> PciAddress:
    """Return an address on bus number `bus`: 1 to 255, then the next domain."""
    return PciAddress(bus // 255, bus % 255 + 1, slot, 0)


def _path(address: PciAddress) -> tuple[str, ...]:
    """Return the path of a device whose bus is below a root port of its own host bridge."""
    port = PciAddress(address.domain, address.bus - 1, 1, 0)
    return f"pci{port.domain:04x}:{port.bus:02x}", str(port), str(address)
