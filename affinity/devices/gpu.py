"""`Gpu` and `DeviceProvider`: which GPUs there are, and what each source knows of where they sit.

A GPU's identity is its PCI address. An ordinal is only ever a position in one named order (affinity.devices.ordinals),
so no value here is an ordinal: references are resolved to a `Gpu` before anything else looks at them.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import attrs

from affinity.support import Support
from affinity.topology.cpuset import CpuSet, NodeSet
from affinity.topology.model import PciAddress

if TYPE_CHECKING:
    from affinity.host import Host


class Source(enum.IntEnum):
    """Who says where a GPU sits, strongest first."""

    OPERATOR = 0
    PCI_NUMA_NODE = 1
    NVML_MEMORY = 2
    NVML_CPU = 3
    NVML_SOCKET = 4
    GPU_MEMORY = 5
    PCI_LOCAL = 6
    PCI_BRIDGE = 7

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS = {
    Source.OPERATOR: "AFFINITY_NODES",
    Source.PCI_NUMA_NODE: "PCI numa_node",
    Source.NVML_MEMORY: "NVML memory affinity",
    Source.NVML_CPU: "NVML CPU affinity",
    Source.NVML_SOCKET: "NVML CPU affinity (socket)",
    Source.GPU_MEMORY: "GPU memory node",
    Source.PCI_LOCAL: "PCI local_cpulist",
    Source.PCI_BRIDGE: "CPUs local to its PCI bridge",
}


@attrs.frozen
class Evidence:
    """One source's word: nodes or CPUs, as that source tells it, or the problem that keeps it from telling."""

    source: Source
    nodes: NodeSet = NodeSet()
    cpus: CpuSet = CpuSet()
    problem: str = ""


@attrs.frozen
class Gpu:
    """One device. Two values are equal where they are the same device, whatever is known of it.

    pci: its identity; None only for a stand-in and for a GPU that its driver cannot reach: then `label` is.
    vendor: "nvidia", "amd", "intel" or "none". device_id: the PCI device id (what model it is), 0 where not known.
    uuid: as its driver says it, with its prefix ("GPU-…"). model: the marketing name or "".
    mig: UUIDs of its MIG devices ("MIG-…"). fault: what its driver says is wrong with it.
    evidence: what each source knows of its node.
    node, source, why: the answer of `locate`: the node whose CPUs are next to it, None where unknown; who decided
    it, None where nobody had to or could; the reason in words.
    """

    pci: PciAddress | None
    vendor: str = attrs.field(eq=False)
    device_id: int = attrs.field(default=0, eq=False)
    uuid: str | None = attrs.field(default=None, eq=False)
    model: str = attrs.field(default="", eq=False)
    mig: tuple[str, ...] = attrs.field(default=(), eq=False)
    fault: str = attrs.field(default="", eq=False)
    evidence: tuple[Evidence, ...] = attrs.field(default=(), eq=False)
    node: int | None = attrs.field(default=None, eq=False)
    source: Source | None = attrs.field(default=None, eq=False)
    why: str = attrs.field(default="", eq=False)
    label: str = ""

    def __str__(self) -> str:
        return str(self.pci) if self.pci is not None else self.label or "no GPU"

    def merged(self, other: Gpu) -> Gpu:
        """This GPU with what another provider knows of it; its own words win."""
        return attrs.evolve(
            self,
            device_id=self.device_id or other.device_id,
            uuid=self.uuid or other.uuid,
            model=self.model or other.model,
            mig=self.mig or other.mig,
            fault=self.fault or other.fault,
            evidence=(*self.evidence, *other.evidence),
        )


class DeviceProvider(ABC):
    """Entry point group `affinity.devices`: one way to list GPUs.

    Write a class with a no-argument constructor; import heavy things inside `devices` only. Several providers may
    list one GPU: what they know is merged by PCI address. `supports` says, from files, whether this provider can
    answer for this host, and never raises; it is not asked where the operator names the provider. `devices` may
    raise `DeviceError` with a remedy; the other providers then answer alone.

    drivers: the vendors ("nvidia", …) whose driver is asked, at some cost: a GPU of theirs that is not listed is
    not there for this process, whatever sysfs shows. Empty for a provider that reads files alone.
    """

    #: The version of this interface that the class is written for; the registry refuses one newer than this.
    interface_version: ClassVar[int] = 1

    drivers: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def supports(self, host: Host) -> Support:
        """Whether this provider can list the GPUs of this host, and why (not)."""

    @abstractmethod
    def devices(self, host: Host) -> tuple[Gpu, ...]:
        """Every GPU this provider sees, in PCI order."""
