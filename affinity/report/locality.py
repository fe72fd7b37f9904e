"""`Locality`: whether a process runs, and has its memory, next to its GPUs."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

import attrs

from affinity.kernel.mempolicy import MemoryPolicy
from affinity.kernel.pages import ResidentBytes, share_error
from affinity.policies.placement import Placement
from affinity.report.observed import page_nodes, share_on
from affinity.topology.cpuset import CpuSet
from affinity.topology.model import Topology

#: Share of the own pages that counts as all of them: what is touched before a bind may lie elsewhere.
LOCAL_SHARE = 0.9

#: What helps if pages may not be sampled, and if the memory map of another user's process may not be read.
_COUNT = "--full counts its pages, which stalls it"
_ROOT = "run `affinity ps` as root (CAP_SYS_PTRACE)"


class Locality(enum.Enum):
    """Where a process is, compared with the placement of its GPUs.

    LOCAL: every thread and the memory are in it. REMOTE: no thread may run on its nodes. NOT_BOUND: the process may run
    on every CPU that its cpuset allows. PARTLY: anything between. UNKNOWN: a fact is missing.
    """

    LOCAL = "local"
    PARTLY = "partly"
    REMOTE = "remote"
    NOT_BOUND = "not bound"
    UNKNOWN = "unknown"

    @property
    def is_misplaced(self) -> bool:
        return self in (Locality.PARTLY, Locality.REMOTE, Locality.NOT_BOUND)


class Fault(enum.Enum):
    """What of a process is outside its placement: threads, pages, or pages that it will touch."""

    THREADS = enum.auto()
    PAGES = enum.auto()
    NEW_PAGES = enum.auto()


class Assessment(NamedTuple):
    """locality, the reason in words, a remedy or "", and what is outside."""

    locality: Locality
    reason: str
    remedy: str = ""
    faults: frozenset[Fault] = frozenset()


@attrs.frozen
class ProcessState:
    """State of a process as read from the kernel.

    threads: each thread's CPUs. policies: how many threads have each memory policy. resident: bytes of its own pages by
    node, None if they could not be read, and `unreadable` is the reason. limit: the CPUs that it may use at most.
    """

    threads: Mapping[int, CpuSet] = attrs.field(factory=dict)
    policies: Mapping[MemoryPolicy, int] = attrs.field(factory=dict)
    resident: ResidentBytes | None = None
    unreadable: str = ""
    limit: CpuSet = CpuSet()

    @property
    def cpus(self) -> CpuSet:
        """The CPUs that any of its threads may run on."""
        bits = 0
        for mask in self.threads.values():
            bits |= mask.bits
        return CpuSet.from_bits(bits)

    def threads_inside(self, cpus: CpuSet) -> int:
        """Return the number of threads that may run on no other CPU."""
        return sum(mask <= cpus for mask in self.threads.values())


def assess(state: ProcessState, placement: Placement, topology: Topology) -> Assessment:
    """Compare a process with the placement of its GPUs, which has CPUs."""
    assert placement.cpus is not None
    if not state.threads:
        return Assessment(Locality.UNKNOWN, f"its threads cannot be read: {state.unreadable}")
    inside, count = state.threads_inside(placement.cpus), len(state.threads)
    found = _outside(state, placement, topology)
    unread = ""
    if state.resident is None and len(topology.memory_nodes) > 1:
        unread = f"; the nodes of its memory cannot be read: {state.unreadable}"
    if not found and unread:
        reason = f"its threads are inside{unread}"
        return Assessment(Locality.UNKNOWN, reason, _COUNT if state.policies else _ROOT)
    if not found:
        return Assessment(Locality.LOCAL, f"its threads may run on CPUs {placement.cpus} alone")
    near = topology.cpus_of(placement.nodes) | placement.cpus
    locality = Locality.PARTLY
    if inside < count and all(mask.isdisjoint(near) for mask in state.threads.values()):
        locality = Locality.REMOTE
    elif inside < count and all(state.limit <= mask for mask in state.threads.values()):
        locality = Locality.NOT_BOUND
    reason = "; ".join(text for _, text in found) + unread
    return Assessment(locality, reason, faults=frozenset(fault for fault, _ in found))


def _outside(state: ProcessState, placement: Placement, topology: Topology) -> list[tuple[Fault, str]]:
    """Return what of the process is not in the placement, in words."""
    assert placement.cpus is not None
    found = []
    inside, count = state.threads_inside(placement.cpus), len(state.threads)
    if inside < count:
        found.append((Fault.THREADS, f"{count - inside} of {count} threads may run outside CPUs {placement.cpus}"))
    if len(topology.memory_nodes) < 2:
        return found
    nodes = page_nodes(placement)
    share = share_on(nodes, state.resident)
    error = share_error(state.resident.sampled) if state.resident is not None else 0
    if share is not None and share + error < LOCAL_SHARE:
        why = f" ({placement.reason})" if placement.memory is None and placement.reason else ""
        found.append((Fault.PAGES, f"{1 - share:.0%} of its memory is not on node {nodes}{why}"))
    for policy, threads in state.policies.items():
        if policy.nodes and policy.nodes.isdisjoint(nodes):
            text = f"new memory of {threads} threads goes to node {policy.nodes} ({policy}), which only they can change"
            found.append((Fault.NEW_PAGES, text))
    return found
