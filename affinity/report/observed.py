"""`Observed`: the state of a process as read from the kernel."""

from __future__ import annotations

import errno
from collections.abc import Mapping

import attrs

from affinity.degradation import Degradation
from affinity.errors import ForeignProcError
from affinity.kernel.mempolicy import MemoryPolicy
from affinity.kernel.protocol import Kernel
from affinity.policies.placement import Placement
from affinity.topology.cpuset import CpuSet


@attrs.frozen
class Observed:
    """The kernel's own word. threads: each thread's CPUs. policy: of the calling thread, None where it could not
    be read (`unread` says why). resident: bytes of the process's own pages by node, None where unreadable."""

    threads: Mapping[int, CpuSet]
    caller: int
    policy: MemoryPolicy | None
    resident: Mapping[int, int] | None
    unreadable: tuple[Degradation, ...] = ()
    threads_hidden: bool = False

    @classmethod
    def read(cls, kernel: Kernel, *, pages: bool = True) -> Observed:
        """Ask the kernel. pages: False leaves out where pages lie, which costs a walk of the address space."""
        threads: dict[int, CpuSet] = {}
        unread = []
        hidden = False
        try:
            listed = kernel.threads()
        except ForeignProcError as refused:
            listed, hidden = (kernel.thread_id(),), True
            unread.append(Degradation.of("bind every thread", refused))
        for tid in listed:
            try:
                threads[tid] = kernel.get_affinity(tid)
            except ProcessLookupError:
                continue
        policy: MemoryPolicy | None = None
        resident: Mapping[int, int] | None = None
        try:
            policy = kernel.get_mempolicy()
        except OSError as refused:
            unread.append(Degradation.of("read back the memory policy", refused))
        try:
            resident = kernel.resident_bytes() if pages else None
        except OSError as refused:  # a kernel without NUMA has no numa_maps: nothing to tell, nothing lost
            if refused.errno != errno.ENOENT:
                unread.append(Degradation.of("read where pages lie", refused))
        return cls(threads, kernel.thread_id(), policy, resident, tuple(unread), hidden)

    def conflicts_with(self, placement: Placement) -> bool:
        """Whether something that could be read is not as placed: what was not read proves nothing."""
        return not self.matches(attrs.evolve(placement, memory=placement.memory if self.policy else None))

    def mismatch(self, strategy: str, placement: Placement) -> Degradation:
        """The kernel's word against a strategy's."""
        shown = self.threads[self.caller]
        if placement.cpus is not None and shown != placement.cpus and shown <= placement.cpus:
            lost = placement.cpus - shown
            said = f"the kernel shows {shown}: {lost} went offline or out of the cpuset, or were never asked for"
            return Degradation(f"strategy {strategy}: CPUs {placement.cpus}", "", said, "bind again or tell its author")
        return Degradation(
            f"strategy {strategy}",
            "",
            f"it reported success at {placement.summary}, but the kernel shows CPUs {self.threads.get(self.caller)} "
            f"and memory policy {self.policy}",
            "tell its author",
        )

    def matches(self, placement: Placement) -> bool:
        """Whether the calling thread is where the placement says."""
        return (placement.cpus is None or self.threads.get(self.caller) == placement.cpus) and (
            placement.memory is None or self.policy == placement.memory
        )

    def local_share(self, placement: Placement) -> float | None:
        """Share (0 to 1) of the process's own pages on the placement's nodes; None where unknown."""
        nodes = placement.memory.nodes if placement.memory and placement.memory.nodes else placement.nodes
        total = sum(self.resident.values()) if self.resident else 0
        return sum(self.resident.get(n, 0) for n in nodes) / total if self.resident and total else None
