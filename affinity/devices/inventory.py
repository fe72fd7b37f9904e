"""Which GPUs are here: the inventory of a host.

A driver is asked only where files do not answer: see `Inventory`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import TypeVar

import attrs

from affinity.devices.gpu import Gpu, NodeEvidence, NodeSource
from affinity.devices.numa_node import assign_node
from affinity.devices.ordinals import (
    NUMBERINGS,
    DriverOrdinal,
    Entry,
    Numbering,
    PhysicalOrdinal,
    VisibleOrdinal,
    pci_order,
)
from affinity.devices.provider import DeviceProvider
from affinity.devices.use import EVERY_PROCESS, GpuUse, ProcessFilter
from affinity.errors import AffinityError, DeviceError, PluginError, SettingsError
from affinity.host import Host
from affinity.registry import Registry
from affinity.settings import Settings
from affinity.support import call_supports
from affinity.topology.cpuset import NodeSet
from affinity.topology.model import Origin, PciAddress

T = TypeVar("T")


@attrs.define(eq=False)  # with slots: see `Plugins` for what that does to a cached property
class Inventory:
    """The GPUs of a host, each located; what is not asked for is not found out.

    Providers that read files come first. A driver is asked, once, where they leave something open: a GPU whose node
    neither the operator nor PCI has, and, except under the operator's override, everything that depends on which
    GPUs this process may use and in which order. What is asked for raises SettingsError where AFFINITY_NODES does not
    fit, PluginError where a provider that the operator named cannot be loaded.
    """

    _host: Host
    _settings: Settings
    _environ: Mapping[str, str]
    _providers: Registry[DeviceProvider]
    _notes: dict[str, None] = attrs.field(factory=dict, init=False)
    _numbered: bool = attrs.field(default=False, init=False)

    @property
    def numbered(self) -> tuple[Gpu, ...]:
        """The GPUs by visible ordinal, if something that was asked for needed their order; () otherwise."""
        return self.visible_order.gpus if self._numbered else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Facts for the operator on what was read so far: a provider that failed, an ambiguous order."""
        return tuple(self._notes)

    @cached_property
    def machine(self) -> tuple[Gpu, ...]:
        """Every GPU of the machine in PCI order, also those hidden from this process: the same from each worker."""
        return (
            self._sysfs_gpus
            if self._sysfs_is_sufficient
            else _in_pci_order((*self._driver_gpus[0], *self._driver_gpus[1]))
        )

    @cached_property
    def devices(self) -> tuple[Gpu, ...]:
        """The GPUs that the drivers show this process, before any environment variable, in PCI order."""
        return self._sysfs_gpus if self._driver_is_unneeded() else self._driver_gpus[0]

    @cached_property
    def visible(self) -> tuple[Gpu, ...]:
        """Those that the runtimes show this process, in their order; one vendor's after the other's."""
        return tuple(gpu for vendor in self._vendors for gpu in self._orders(vendor)[1].gpus)

    @property
    def physical(self) -> Numbering[PhysicalOrdinal]:
        """`machine`, by ordinal."""
        return Numbering(PhysicalOrdinal, tuple(map(Entry, self.machine)))

    @property
    def driver_order(self) -> Numbering[DriverOrdinal]:
        """What an entry of CUDA_VISIBLE_DEVICES (or its like) counts among."""
        return self._ordinals[0]

    @property
    def visible_order(self) -> Numbering[VisibleOrdinal]:
        """What `cuda:0` (or its like) counts among."""
        return self._ordinals[1]

    @cached_property
    def _vendors(self) -> tuple[str, ...]:
        here = {g.vendor for g in self.devices}
        return (*(v for v in NUMBERINGS if v in here), *sorted(here - NUMBERINGS.keys()))

    @cached_property
    def _ordinals(self) -> tuple[Numbering[DriverOrdinal], Numbering[VisibleOrdinal]]:
        """Ordinals count one vendor's GPUs: no runtime shows two."""
        vendor = self._vendors[0] if self._vendors else "none"
        if len(self._vendors) > 1:
            self._notes[f"ordinals count the {vendor} GPUs; name the others by PCI address"] = None
        return self._orders(vendor)

    def _orders(self, vendor: str) -> tuple[Numbering[DriverOrdinal], Numbering[VisibleOrdinal]]:
        self._numbered = True
        mine = tuple(g for g in self.devices if g.vendor == vendor)
        driver, visible = NUMBERINGS.get(vendor, pci_order)(mine, self._environ)
        self._notes.update(dict.fromkeys(entry.ambiguity for entry in visible.entries if entry.alternatives))
        return driver, visible

    def gpu_of(self, entry: Entry) -> Gpu:
        """Return the GPU of this entry; an ambiguity is added to the notes."""
        if entry.alternatives:
            self._notes[entry.ambiguity] = None
        return entry.unambiguous_gpu()

    def uses(self, gpus: Iterable[Gpu], asked: ProcessFilter = EVERY_PROCESS) -> list[GpuUse]:
        """Return the processes that use these GPUs, as shown now; a provider that fails is a note.

        Drivers are asked first. A provider that reads files is asked about the GPUs of the others alone: it has to look
        at the descriptors of every process.
        """
        found: list[GpuUse] = []
        left = [gpu for gpu in gpus if gpu.pci is not None]
        for provider in (*self._usable(drivers=True), *self._usable(drivers=False)):
            vendors = provider.driver_vendors or {gpu.vendor for gpu in left}
            theirs = [gpu for gpu in left if gpu.vendor in vendors]
            shown = self._answer(provider, partial(provider.processes, self._host, theirs, asked)) if theirs else None
            if shown is not None:
                found += (use for use in shown if use.pid is None or asked.has(use.pid))
                left = [gpu for gpu in left if gpu not in theirs or not provider.driver_vendors]
        return found

    # -- files

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The providers to ask: those named, else all, NVML before third parties', sysfs last."""
        others = tuple(n for n in self._providers.names() if n not in ("nvml", "pci"))
        return self._settings.devices or ("nvml", *others, "pci")

    @cached_property
    def _sysfs_records(self) -> dict[PciAddress, Gpu]:
        """What providers that read files alone have on each address."""
        found: dict[PciAddress, Gpu] = {}
        for provider in self._usable(drivers=False):
            for gpu in self._listed(provider) or ():
                if gpu.pci is not None:
                    found[gpu.pci] = found[gpu.pci].merge(gpu) if gpu.pci in found else gpu
        return found

    @cached_property
    def _sysfs_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs in files, with their nodes, under the operator's override if it counts these GPUs."""
        gpus = _in_pci_order(self._sysfs_records.values())
        if self._settings.nodes is not None and len(self._settings.nodes) == len(gpus):
            gpus = self._with_nodes(gpus)
        return tuple(assign_node(gpu, self._host.topology) for gpu in gpus)

    @cached_property
    def _sysfs_is_sufficient(self) -> bool:
        """Whether no driver could change a node: the operator or PCI has each, or there is only one."""
        if not self._sysfs_gpus or (
            self._settings.nodes is not None and len(self._settings.nodes) != len(self._sysfs_gpus)
        ):
            return False
        return all(
            g.node is not None and (g.node_source is None or g.node_source <= NodeSource.PCI_NUMA_NODE)
            for g in self._sysfs_gpus
        )

    def _driver_is_unneeded(self) -> bool:
        """Whether files alone show what this process may use: the operator gave the nodes, no GPU is hidden from this
        process, and no variable has a UUID. (Level Zero's variables hold ordinals alone.)"""
        if self._settings.nodes is None or not self._sysfs_is_sufficient:
            return False
        named = ",".join(value for name, value in self._environ.items() if name.endswith("_VISIBLE_DEVICES"))
        if "GPU-" in named.upper() or "MIG-" in named.upper():
            return False
        mine = sum(g.vendor == "nvidia" for g in self._sysfs_gpus)
        return self._host.topology.origin is not Origin.LIVE or mine == count_nvidia_devices()

    # -- drivers

    @cached_property
    def _driver_gpus(self) -> tuple[tuple[Gpu, ...], tuple[Gpu, ...]]:
        """The GPUs that the drivers show, with what files have on them; and those they hide."""
        listed: dict[object, Gpu] = {}
        spoken: set[str] = set()
        for provider in self._usable(drivers=True):
            theirs = self._listed(provider)
            for gpu in theirs or ():
                listed[gpu] = listed[gpu].merge(gpu) if gpu in listed else gpu
            if theirs is not None:
                spoken |= provider.driver_vendors
        hidden: list[Gpu] = []
        for gpu in self._sysfs_records.values():
            if gpu in listed:
                listed[gpu] = listed[gpu].merge(gpu)
            elif gpu.vendor in spoken:
                hidden.append(gpu)
            else:
                listed[gpu] = gpu
        shown, hidden = _match_lost_gpus(list(listed.values()), hidden)
        self._notes.update(dict.fromkeys(f"{g}: {g.error}" for g in shown if g.error))
        devices, rest = self._apply_node_override(_in_pci_order(shown), _in_pci_order(hidden))
        topology = self._host.topology
        return tuple(assign_node(g, topology) for g in devices), tuple(assign_node(g, topology) for g in rest)

    def _usable(self, *, drivers: bool) -> list[DeviceProvider]:
        """The providers of this kind. One that the operator named is not asked whether it can."""
        found = []
        for name in self._names:
            try:
                provider = self._providers.get(name)
            except PluginError as broken:
                if self._settings.devices or name == "pci":
                    raise
                self._notes[str(broken)] = None
                continue
            if bool(provider.driver_vendors) is drivers and (self._settings.devices or self._can(provider)):
                found.append(provider)
        return found

    def _can(self, provider: DeviceProvider) -> bool:
        return call_supports(provider.supports, self._host).ok

    def _listed(self, provider: DeviceProvider) -> tuple[Gpu, ...] | None:
        self._settings.check(provider.options)
        return self._answer(provider, lambda: provider.devices(self._host, self._settings))

    def _answer(self, provider: DeviceProvider, call: Callable[[], T]) -> T | None:
        """What the call of a provider gives; None, and a note, where it fails: the others then answer alone."""
        try:
            return call()
        except DeviceError as failed:
            self._notes[str(failed)] = None
        except AffinityError:  # the machine's own files contradict themselves
            raise
        except Exception as mistake:
            name = type(provider).__name__
            self._notes[
                f"device provider {name} raised {type(mistake).__name__}: {mistake}; report it to its author"
            ] = None
        return None

    # -- the operator's override

    def _apply_node_override(
        self, shown: tuple[Gpu, ...], hidden: tuple[Gpu, ...]
    ) -> tuple[tuple[Gpu, ...], tuple[Gpu, ...]]:
        """AFFINITY_NODES counts the machine's GPUs, or those shown to this process, or stands in for them."""
        nodes = self._settings.nodes
        every = _in_pci_order((*shown, *hidden))
        if nodes is None:
            return shown, hidden
        if not every:
            return self._with_nodes(tuple(map(placeholder_gpu, range(len(nodes))))), ()
        if len(nodes) == len(every):
            placed = dict(zip(every, self._with_nodes(every), strict=True))
            return tuple(placed[g] for g in shown), tuple(placed[g] for g in hidden)
        if len(nodes) == len(shown):
            return self._with_nodes(shown), hidden
        also = f" ({len(shown)} of them for this process)" if hidden else ""
        raise SettingsError(
            f"AFFINITY_NODES names {len(nodes)} nodes, {len(every)} GPUs are here{also}: "
            "give one node for each GPU, in PCI order"
        )

    def _with_nodes(self, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
        there = NodeSet(self._host.topology.by_id)
        nodes = self._settings.nodes or ()
        for node in nodes:
            if node not in there:
                raise SettingsError(f"AFFINITY_NODES names node {node}, which is not here: online nodes are {there}")
        return tuple(
            attrs.evolve(gpu, evidence=(NodeEvidence(NodeSource.OPERATOR, nodes=NodeSet([node])), *gpu.evidence))
            for gpu, node in zip(gpus, nodes, strict=True)
        )


def placeholder_gpu(index: int, node: int | None = None) -> Gpu:
    """In place of a GPU, on a machine without one."""
    return Gpu(
        None, "none", label=f"placeholder {index}", node=node, node_reason="a placeholder" if node is not None else ""
    )


def count_nvidia_devices(dev: str = "/dev") -> int:
    """Return how many NVIDIA GPUs a process here can open: in a container it may be fewer than sysfs shows."""
    try:
        return sum(name.startswith("nvidia") and name[6:].isdigit() for name in os.listdir(dev))
    except OSError:
        return 0


def _in_pci_order(gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """Those without an address come first, as their driver gave them: their place is unknown."""
    return tuple(sorted(gpus, key=lambda g: (g.pci is not None, g.pci or _NO_PLACEMENT)))


_NO_PLACEMENT = PciAddress(0, 0, 0, 0)


def _match_lost_gpus(shown: list[Gpu], hidden: list[Gpu]) -> tuple[list[Gpu], list[Gpu]]:
    """Give a GPU whose driver has lost its address the address that sysfs shows and the driver does not.

    Where their numbers match, they are the same, one by one in PCI order.
    """
    for vendor in {g.vendor for g in shown if g.pci is None}:
        lost = [g for g in shown if g.pci is None and g.vendor == vendor]
        behind = [g for g in _in_pci_order(hidden) if g.vendor == vendor]
        if len(lost) == len(behind):
            shown = [g for g in shown if g not in lost] + [b.merge(a) for a, b in zip(lost, behind, strict=True)]
            hidden = [g for g in hidden if g not in behind]
    return shown, hidden
