"""`Handoff`: what a parent passes to a worker it starts bound, and what a process records of its own bind.

A worker inherits its parent's mask. Taken for a limit, a mask that this framework set would keep a worker for a GPU of
node 1 on node 0 for ever, so each bind records the mask before it. The record explains a mask only if the mask is
still the one that was set: a later `taskset` or cpuset is a limit. One text format has three carriers:

    -X affinity=…               the command line of a spawned worker; changes no environment
    an attribute of Process     the `multiprocessing.Process` object of a worker, however it is started
    AFFINITY_BOUND              the environment of a process that called `bind()` or was started by `affinity run`

A variable is inherited by every descendant, also by one started under `taskset` with the same CPUs. So AFFINITY_BOUND
counts in the process that wrote it and in descendants that `multiprocessing` started, which runs no other program in
between. Elsewhere the mask is a limit.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import attrs

from affinity.errors import ListFormatError
from affinity.kernel.mempolicy import MemoryPolicy
from affinity.kernel.protocol import Kernel, Process, ancestors, multiprocessing_parent
from affinity.topology.cpuset import CpuSet, NodeSet

VARIABLE = "AFFINITY_BOUND"


@attrs.frozen
class Handoff:
    """What is passed to a worker at its start, or recorded of a bind. As text:
    `gpus=0000:1b:00.0;cpus=4-7;memory=preferred:1;allowed=0-7;strategy=numactl;by=71-5523-1f0e77aa;AFFINITY_SMT=one`.

    gpus: references that mean the same in every process. nodes: given in place of GPUs, else None. cpus: the mask that
    was set, or inherited if none was. memory: the policy that was set (`preferred:1`), "" for none. allowed: the mask
    before this framework narrowed it. strategy: the one that acted. by: identity of the process that wrote this.
    settings: variables whose value in the parent's Settings is not the environment's, "" for unset.
    """

    cpus: CpuSet
    allowed: CpuSet
    memory: str = ""
    gpus: tuple[str, ...] = ()
    nodes: NodeSet | None = None
    strategy: str = ""
    by: str = ""
    settings: Mapping[str, str] = attrs.field(factory=dict)

    def __str__(self) -> str:
        fields = {
            "gpus": ",".join(self.gpus),
            "cpus": str(self.cpus),
            "memory": self.memory,
            "allowed": str(self.allowed),
            "strategy": self.strategy,
            "by": self.by,
        }
        pairs = [(key, value) for key, value in fields.items() if value or key in ("cpus", "allowed")]
        if self.nodes is not None:  # none at all is a decision too
            pairs.append(("nodes", str(self.nodes)))
        return ";".join(f"{key}={_escape(value)}" for key, value in (*pairs, *self.settings.items()))

    @classmethod
    def parse(cls, text: str) -> Handoff | None:
        """Return None if the text does not parse; an unrelated value and an unknown key are ignored."""
        pairs = (part.partition("=") for part in text.split(";"))
        fields = {key: _unescape(value) for key, equals, value in pairs if equals}
        try:
            return cls(
                cpus=CpuSet.parse(fields["cpus"]),
                allowed=CpuSet.parse(fields["allowed"]),
                memory=fields.get("memory", ""),
                gpus=tuple(filter(None, fields.get("gpus", "").split(","))),
                nodes=NodeSet.parse(fields["nodes"]) if "nodes" in fields else None,
                strategy=fields.get("strategy", ""),
                by=fields.get("by", ""),
                settings={key: value for key, value in fields.items() if key.startswith(("AFFINITY_", "SGLANG_"))},
            )
        except (KeyError, ListFormatError):
            return None

    @classmethod
    def received(cls, process: Process) -> Handoff | None:
        """Return what its parent passed to this process when it started it."""
        return cls.parse(process.handoff)


def _escape(value: str) -> str:
    return value.replace("%", "%25").replace(";", "%3B")


def _unescape(value: str) -> str:
    return value.replace("%3B", ";").replace("%25", "%")


_records: weakref.WeakKeyDictionary[Process, Handoff] = weakref.WeakKeyDictionary()

#: By thread: its own mask while it has another for the start of a worker.
_lent: weakref.WeakKeyDictionary[Process, dict[int, CpuSet]] = weakref.WeakKeyDictionary()


def record(kernel: Kernel, made: Handoff | None) -> Handoff | None:
    """Keep the record of this process's bind, None after an undo; return the one before."""
    before = _records.pop(kernel, None)
    if made is None:
        kernel.environ.pop(VARIABLE, None)
    else:
        made = attrs.evolve(made, by=kernel.identity(), settings={})
        _records[kernel] = made
        kernel.environ[VARIABLE] = str(made)
    return before


def own_record(process: Process) -> Handoff | None:
    """Return the record of a bind by this very process, not by one that it was forked from."""
    found = _records.get(process) or Handoff.parse(process.environ.get(VARIABLE, ""))
    return found if found is not None and found.by == process.identity() else None


def matching_record(process: Process) -> Handoff | None:
    """Return the record that explains the mask of the process, None if this framework did not set it."""
    records = _known_records(process)
    if not records:
        return None
    mask, online = process_mask(process), process.online()  # a CPU that went offline is not a limit that was set
    return next((known for known in records if known.cpus & online == mask), None)


def set_by_affinity(policy: MemoryPolicy, process: Process) -> bool:
    """Return whether this framework gave the process its memory policy.

    No other process can do so once it runs, so a policy that it set itself is ours whatever a cpuset has made of it
    since. A policy that it inherited must be the one recorded.
    """
    mine = _records.get(process)
    if mine is not None and mine.memory:
        return True
    return any(known.memory == str(policy) for known in _known_records(process))


def baseline_cpus(process: Process) -> CpuSet:
    """Return the CPUs that the process may use, before this framework narrowed them."""
    known = matching_record(process)
    return known.allowed if known is not None else process_mask(process)


def inherited_mask_note(process: Process) -> str:
    """Return why a mask that a bound parent passed on is a limit here, "" if it is not."""
    left = Handoff.parse(process.environ.get(VARIABLE, ""))
    if left is None or left.cpus != process_mask(process) or left.cpus == left.allowed or _counts(left, process):
        return ""
    writer = left.by.partition("-")[0] or "another"
    return (
        f"CPUs {left.cpus} are those that process {writer} was bound to, and a limit for what it starts: "
        f"start workers by affinity.get_context() or affinity.spawning(), or under `taskset -c {left.allowed}`"
    )


@contextmanager
def mask_lent(kernel: Kernel) -> Iterator[None]:
    """Within the block, the calling thread may have the mask of a worker that it starts.

    For `process_mask` it keeps the mask that it has at the start of the block.
    """
    lent = _lent.setdefault(kernel, {})
    tid = kernel.thread_id()
    if tid in lent:  # a signal handler that starts a worker while the thread starts one
        yield
        return
    lent[tid] = kernel.get_affinity()
    try:
        yield
    finally:
        del lent[tid]


def process_mask(process: Process) -> CpuSet:
    """Return the mask of the process: its main thread's, since another thread may be pinned by its owner."""
    lent = _lent.get(process, {}).get(process.pid)
    if lent is not None:
        return lent
    try:
        return process.get_affinity(process.pid)
    except ProcessLookupError:  # the main thread has ended
        return process.get_affinity()


def _known_records(process: Process) -> list[Handoff]:
    """Return every record that counts for this process, the latest first."""
    environment = Handoff.parse(process.environ.get(VARIABLE, ""))
    if environment is not None and not _counts(environment, process):
        environment = None
    known = _records.get(process), Handoff.received(process), environment
    return [found for found in known if found is not None]


def _counts(left: Handoff, process: Process) -> bool:
    """Return whether a record in the environment explains the mask of this process."""
    if left.by == process.identity():
        return True
    return multiprocessing_parent(process) is not None and any(a.identity() == left.by for a in ancestors(process))
