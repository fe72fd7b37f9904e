"""`Gpu` and `DeviceProvider`: which GPUs there are, and what each source knows of where they sit.

A GPU's identity is its PCI address. An ordinal is only ever a position in one named list, so no value in
this package is an ordinal: references are resolved to `Gpu` before anything else looks at them.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import attrs

from affinity.host.cpuset import CpuSet, NodeSet
from affinity.host.topology import PciAddress
from affinity.support import Support

if TYPE_CHECKING:
    from affinity.host.host import Host


class Source(enum.IntEnum):
    """Who says where a GPU sits, strongest first."""

    OPERATOR = 0
    PCI_NUMA_NODE = 1
    NVML_MEMORY = 2
    NVML_CPU = 3
    PCI_BRIDGE = 4

    @property
    def words(self) -> str:
        return {0: "AFFINITY_NODES", 1: "PCI numa_node", 2: "NVML memory affinity", 3: "NVML CPU affinity"}.get(
            self.value, "CPUs local to its PCI bridge"
        )


@attrs.frozen
class Evidence:
    """One source's word: either nodes or CPUs, as that source tells it."""

    source: Source
    nodes: NodeSet = NodeSet()
    cpus: CpuSet = CpuSet()


@attrs.frozen
class Gpu:
    """One device.

    pci: its identity; None only for a stand-in (a machine without GPUs). uuid: as its driver says it, with
    its prefix ("GPU-…"). vendor: "nvidia", "amd", "intel" or "none". model: the marketing name or "".
    evidence: what each source knows of its node. mig: UUIDs of its MIG devices ("MIG-…").
    node, why: the answer of `locate`: the node whose CPUs are next to it, None where unknown, and the reason.
    """

    pci: PciAddress | None
    vendor: str
    uuid: str | None = None
    model: str = ""
    evidence: tuple[Evidence, ...] = ()
    mig: tuple[str, ...] = ()
    node: int | None = None
    why: str = ""
    label: str = ""

    def __str__(self) -> str:
        return str(self.pci) if self.pci is not None else self.label or "no GPU"


class DeviceProvider(ABC):
    """Entry point group `affinity.devices`: one way to list GPUs.

    Write a class with a no-argument constructor; import heavy things inside `devices` only. `supports` says,
    from files, whether this provider can answer for this host, and never raises. `devices` may raise
    `DeviceError` with a remedy; the next provider is then asked.
    """

    @abstractmethod
    def supports(self, host: Host) -> Support:
        """Whether this provider can list the GPUs of this host, and why (not)."""

    @abstractmethod
    def devices(self, host: Host) -> tuple[Gpu, ...]:
        """Every GPU this provider sees, in PCI order."""
