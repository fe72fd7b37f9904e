"""`Handoff`: data that a parent passes to a worker that it starts bound, and that a process records of its own bind.

A worker inherits its parent's mask. A mask that this framework set is no limit: as a limit it would keep a worker for a
GPU of node 1 on node 0. So each bind records the mask before it. The record applies only while the mask is the one that
was set; after a later `taskset` or cpuset the mask is a limit. The same text is passed in three places:

    -X affinity=…               the command line of a spawned worker; changes no environment
    an attribute of Process     the `multiprocessing.Process` object of a worker, for every start method
    AFFINITY_BOUND              the environment of a process that called `bind()` or was started by `affinity run`

A variable is inherited by every descendant, also by one started under `taskset` with the same CPUs. So AFFINITY_BOUND
counts only in the process that set it and in descendants that `multiprocessing` started, which runs no other program in
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
    """Data passed to a worker at its start, or recorded of a bind. As text:
    `gpus=0000:1b:00.0;cpus=4-7;memory=preferred:1;allowed=0-7;strategy=numactl;by=71-5523-1f0e77aa;AFFINITY_SMT=one`.

    gpus: references that are valid in every process. nodes: given instead of GPUs, else None. cpus: the mask that was
    set, or inherited if none was. memory: the policy that was set (`preferred:1`), "" for none. allowed: the mask
    before this framework narrowed it. strategy: the one that acted. given: the local rank and the variables by which
    the process was given its GPUs. by: identity of the process that wrote the text.
    settings: variables whose value in the parent's Settings differs from the environment, "" for unset.
    """

    cpus: CpuSet
    allowed: CpuSet
    memory: str = ""
    gpus: tuple[str, ...] = ()
    nodes: NodeSet | None = None
    strategy: str = ""
    given: str = ""
    by: str = ""
    settings: Mapping[str, str] = attrs.field(factory=dict)

    def __str__(self) -> str:
        fields = {
            "gpus": ",".join(self.gpus),
            "cpus": str(self.cpus),
            "memory": self.memory,
            "allowed": str(self.allowed),
            "strategy": self.strategy,
            "given": self.given,
            "by": self.by,
        }
        pairs = [(key, value) for key, value in fields.items() if value or key in ("cpus", "allowed")]
        if self.nodes is not None:  # an empty set is passed too
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
                given=fields.get("given", ""),
                by=fields.get("by", ""),
                settings={key: value for key, value in fields.items() if key.startswith(("AFFINITY_", "SGLANG_"))},
            )
        except (KeyError, ListFormatError):
            return None

    @classmethod
    def received(cls, process: Process) -> Handoff | None:
        """Return the handoff that the process received from its parent."""
        return cls.parse(process.handoff)


def _escape(value: str) -> str:
    return value.replace("%", "%25").replace(";", "%3B")


def _unescape(value: str) -> str:
    return value.replace("%3B", ";").replace("%25", "%")


_records: weakref.WeakKeyDictionary[Process, Handoff] = weakref.WeakKeyDictionary()

#: By thread: its own mask while it has the mask of a worker that it starts.
_lent: weakref.WeakKeyDictionary[Process, dict[int, CpuSet]] = weakref.WeakKeyDictionary()


def record(kernel: Kernel, handoff: Handoff | None) -> Handoff | None:
    """Store the record of this process's bind, None after an undo; return the previous one."""
    previous = _records.pop(kernel, None)
    if handoff is None:
        kernel.environ.pop(VARIABLE, None)
    else:
        handoff = attrs.evolve(handoff, by=kernel.identity(), settings={})
        _records[kernel] = handoff
        kernel.environ[VARIABLE] = str(handoff)
    return previous


def own_record(process: Process) -> Handoff | None:
    """Return the record of a bind by this process itself, not by one that it was forked from."""
    found = _records.get(process) or Handoff.parse(_variable(process))
    return found if found is not None and found.by == process.identity() else None


def _variable(process: Process) -> str:
    """Return the record in a process's environment, "" for a process whose environment may not be read."""
    try:
        return process.environ.get(VARIABLE, "")
    except PermissionError:
        return ""


def matching_record(process: Process) -> Handoff | None:
    """Return the record whose mask the process still has, None if this framework did not set the mask."""
    records = _known_records(process)
    if not records:
        return None
    mask, online = process_mask(process), process.online()  # a CPU that went offline is not a limit that was set
    return next((known for known in records if known.cpus & online == mask), None)


def bound_ancestor(process: Process) -> Process | None:
    """Return the process above this one that wrote the record in the environment, None if there is none."""
    found = Handoff.parse(process.environ.get(VARIABLE, ""))
    return next((a for a in ancestors(process) if a.identity() == found.by), None) if found is not None else None


def set_by_affinity(policy: MemoryPolicy, process: Process) -> bool:
    """Return whether this framework gave the process its memory policy.

    Only the process itself can set its policy (set_mempolicy(2)). So after a bind the policy is the framework's, even
    if a cpuset changed its nodes since. An inherited policy must equal the recorded one.
    """
    own = _records.get(process)
    if own is not None and own.memory:
        return True
    return any(known.memory == str(policy) for known in _known_records(process))


def baseline_cpus(process: Process) -> CpuSet:
    """Return the CPUs that the process may use, before this framework narrowed them."""
    known = matching_record(process)
    return known.allowed if known is not None else process_mask(process)


def inherited_record(process: Process) -> Handoff | None:
    """Return the record of a bound process above whose mask this program has, as a limit; None if there is none."""
    found = Handoff.parse(process.environ.get(VARIABLE, ""))
    if found is None or found.cpus & process.online() != process_mask(process) or _counts(found, process):
        return None
    return found


def inherited_mask_note(process: Process) -> str:
    """Return why a mask inherited from a bound parent is a limit here, "" if it is not."""
    found = inherited_record(process)
    if found is None or found.cpus == found.allowed:
        return ""
    writer = found.by.partition("-")[0] or "another"
    return (
        f"CPUs {found.cpus} are those that process {writer} was bound to, and a limit for the programs it starts: "
        f"start workers by affinity.get_context() or affinity.spawning(), or under `taskset -c {found.allowed}`"
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
    """Return the mask of the process: that of its main thread, because other threads may be pinned on purpose."""
    lent = _lent.get(process, {}).get(process.pid)
    if lent is not None:
        return lent
    try:
        return process.get_affinity(process.pid)
    except ProcessLookupError:  # the main thread has ended
        return process.get_affinity()


def _known_records(process: Process) -> list[Handoff]:
    """Return every record that applies to this process, the latest first."""
    environment = Handoff.parse(_variable(process))
    if environment is not None and not _counts(environment, process):
        environment = None
    known = _records.get(process), Handoff.received(process), environment
    return [found for found in known if found is not None]


def _counts(found: Handoff, process: Process) -> bool:
    """Return whether a record in the environment applies to this process."""
    if found.by == process.identity():
        return True
    return multiprocessing_parent(process) is not None and any(a.identity() == found.by for a in ancestors(process))
