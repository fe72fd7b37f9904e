"""`GpuUse`: one process and one GPU, with the evidence for it."""

from __future__ import annotations

import enum
from collections.abc import Collection

import attrs

from affinity.topology.model import PciAddress


class Evidence(enum.Enum):
    """How certain it is that a process uses a GPU.

    USES: its driver lists it: NVML, a queue or memory of KFD, a client of DRM. ASSIGNED: its launcher states that it
    gave it the GPU. MAY_USE: it has the GPU's device file
    open, as a CUDA process may have those of all GPUs. UNKNOWN: neither is shown.
    """

    USES = "uses"
    ASSIGNED = "assigned"
    MAY_USE = "may use"
    UNKNOWN = "unknown"


@attrs.frozen
class GpuUse:
    """What a device provider shows of one process and one GPU.

    pid: None if it is not known which processes there are; `reason` then is a note for the operator. gpu: the GPU's PCI
    address, None if it is not known which one. reason: the evidence in words. is_here: whether the PID is one of this
    PID namespace; if not, a process of the same number here is another one.
    """

    pid: int | None
    gpu: PciAddress | None
    evidence: Evidence
    reason: str
    is_here: bool = True


@attrs.frozen
class ProcessFilter:
    """The processes that a caller asks about; None for all.

    pids: these, of those that a driver lists. files_of: those whose open files may be looked at where no driver lists
    processes, which is what takes long.
    """

    pids: Collection[int] | None = None
    files_of: Collection[int] | None = None

    def has(self, pid: int) -> bool:
        """Return whether a process that a driver lists is asked about."""
        return self.pids is None or pid in self.pids


EVERY_PROCESS = ProcessFilter()
