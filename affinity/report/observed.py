"""`Observed`: the state of a process as read from the kernel."""

from __future__ import annotations

import errno
from collections.abc import Mapping

import attrs

from affinity.degradation import Degradation
from affinity.errors import ForeignProcError
from affinity.kernel.mempolicy import MemoryPolicy
from affinity.kernel.pages import ResidentBytes
from affinity.kernel.protocol import Process
from affinity.policies.placement import Placement
from affinity.topology.cpuset import CpuSet, NodeSet


@attrs.frozen
class Observed:
    """State of a process as read from the kernel.

    threads: each thread's CPUs. caller: the calling thread; of another process, its main one. policy: that thread's,
    None if it could not be read. resident: bytes of the process's own pages by node, None if they could not be read.
    unreadable: the errors of these readings. threads_hidden: /proc shows no thread, so `threads` has the caller alone.
    """

    threads: Mapping[int, CpuSet]
    caller: int
    policy: MemoryPolicy | None
    resident: ResidentBytes | None
    unreadable: tuple[Degradation, ...] = ()
    threads_hidden: bool = False

    @classmethod
    def read(cls, process: Process, *, pages: bool = True) -> Observed:
        """Read the state of a process. pages: whether to read the nodes of its pages."""
        threads: Mapping[int, CpuSet]
        unreadable = []
        hidden = False
        try:
            threads = process.affinities()
        except ForeignProcError as refused:
            threads, hidden = {process.thread_id(): process.get_affinity(process.thread_id())}, True
            unreadable.append(Degradation.of("bind every thread", refused))
        policy: MemoryPolicy | None = None
        resident: ResidentBytes | None = None
        try:
            policy = process.get_mempolicy()
        except OSError as error:
            unreadable.append(Degradation.of("read back the memory policy", error))
        try:
            resident = process.resident_bytes() if pages else None
        except OSError as error:
            if error.errno != errno.ENOENT:  # a kernel without NUMA has no numa_maps
                unreadable.append(Degradation.of("read the nodes of pages", error))
        return cls(threads, process.thread_id(), policy, resident, tuple(unreadable), hidden)

    def conflicts_with(self, placement: Placement) -> bool:
        """Return whether a value that could be read differs from the placement."""
        return not self.matches(attrs.evolve(placement, memory=placement.memory if self.policy else None))

    def mismatch(self, strategy: str, placement: Placement) -> Degradation:
        """Describe how the observed state differs from the one that the strategy reported."""
        shown = self.threads[self.caller]
        if placement.cpus is not None and shown != placement.cpus and shown <= placement.cpus:
            lost = placement.cpus - shown
            error = (
                f"the kernel shows {shown}: {lost} went offline or out of the cpuset, or the strategy did not set them"
            )
            remedy = "bind again, or report it to its author"
            return Degradation(f"strategy {strategy}: CPUs {placement.cpus}", "", error, remedy)
        return Degradation(
            f"strategy {strategy}",
            "",
            f"it reported success at {placement.summary}, but the kernel shows CPUs {self.threads.get(self.caller)} "
            f"and memory policy {self.policy}",
            "report it to its author",
        )

    def matches(self, placement: Placement) -> bool:
        """Return whether the calling thread has the CPUs and the memory policy of the placement."""
        return (placement.cpus is None or self.threads.get(self.caller) == placement.cpus) and (
            placement.memory is None or self.policy == placement.memory
        )

    def local_share(self, placement: Placement) -> float | None:
        """Return the share (0 to 1) of the process's own pages on the placement's nodes, None if unknown."""
        return share_on(page_nodes(placement), self.resident)


def page_nodes(placement: Placement) -> NodeSet:
    """Return the nodes that the process's own pages belong on."""
    return placement.memory.nodes if placement.memory and placement.memory.nodes else placement.nodes


def share_on(nodes: NodeSet, resident: ResidentBytes | None) -> float | None:
    """Return the share (0 to 1) of a process's own pages on these nodes, None if unknown or if it has none."""
    total = sum(resident.values()) if resident else 0
    return sum(resident.get(n, 0) for n in nodes) / total if resident and total else None
