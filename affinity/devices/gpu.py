"""`Gpu` and the evidence for its node.

A GPU's identity is its PCI address. An ordinal is only ever a position in one named order (affinity.devices.ordinals),
so no value here is an ordinal: references are resolved to a `Gpu` before anything else looks at them.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from affinity.topology.cpuset import CpuSet, NodeSet, cpu_set, node_set
from affinity.topology.model import PciAddress

if TYPE_CHECKING:
    pass


class NodeSource(enum.IntEnum):
    """A source for the node of a GPU, strongest first."""

    OPERATOR = 0
    PCI_NUMA_NODE = 1
    NVML_MEMORY = 2
    NVML_CPU = 3
    NVML_SOCKET = 4
    GPU_MEMORY = 5
    PCI_LOCAL = 6
    PCI_BRIDGE = 7

    @property
    def label(self) -> str:
        return _WORDS[self]


_WORDS = {
    NodeSource.OPERATOR: "AFFINITY_NODES",
    NodeSource.PCI_NUMA_NODE: "PCI numa_node",
    NodeSource.NVML_MEMORY: "NVML memory affinity",
    NodeSource.NVML_CPU: "NVML CPU affinity",
    NodeSource.NVML_SOCKET: "NVML CPU affinity (socket)",
    NodeSource.GPU_MEMORY: "GPU memory node",
    NodeSource.PCI_LOCAL: "PCI local_cpulist",
    NodeSource.PCI_BRIDGE: "CPUs local to its PCI bridge",
}


@attrs.frozen
class NodeEvidence:
    """What one source shows: nodes or CPUs, or the problem that keeps it from showing any."""

    source: NodeSource
    nodes: NodeSet = attrs.field(default=NodeSet(), converter=node_set)
    cpus: CpuSet = attrs.field(default=CpuSet(), converter=cpu_set)
    problem: str = ""


@attrs.frozen
class Gpu:
    """One device. Two values are equal where they are the same device, whatever is known of it.

    pci: its identity; None only for a placeholder and for a GPU that its driver cannot reach: then `label` is.
    vendor: "nvidia", "amd", "intel" or "none". device_id: the PCI device id (what model it is), 0 where not known.
    uuid: of its driver, with its prefix ("GPU-…"). model: the marketing name or "".
    mig_uuids: UUIDs of its MIG devices ("MIG-…"). error: a fault that its driver reports.
    evidence: what each source shows of its node.
    node, node_source, node_reason: set by `assign_node`: the node whose CPUs are next to it, None if unknown; the
    source that decided it, None if none had to or could; the reason in words.
    """

    pci: PciAddress | None
    vendor: str = attrs.field(eq=False)
    device_id: int = attrs.field(default=0, eq=False)
    uuid: str | None = attrs.field(default=None, eq=False)
    model: str = attrs.field(default="", eq=False)
    mig_uuids: tuple[str, ...] = attrs.field(default=(), eq=False)
    error: str = attrs.field(default="", eq=False)
    evidence: tuple[NodeEvidence, ...] = attrs.field(default=(), eq=False)
    node: int | None = attrs.field(default=None, eq=False)
    node_source: NodeSource | None = attrs.field(default=None, eq=False)
    node_reason: str = attrs.field(default="", eq=False)
    label: str = ""

    def __str__(self) -> str:
        return str(self.pci) if self.pci is not None else self.label or "no GPU"

    def merge(self, other: Gpu) -> Gpu:
        """Return this GPU with what another provider has on it; its own values have precedence."""
        return attrs.evolve(
            self,
            device_id=self.device_id or other.device_id,
            uuid=self.uuid or other.uuid,
            model=self.model or other.model,
            mig_uuids=self.mig_uuids or other.mig_uuids,
            error=self.error or other.error,
            evidence=(*self.evidence, *other.evidence),
        )
