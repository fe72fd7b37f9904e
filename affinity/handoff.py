"""What was allowed before this framework first bound anything: the limit the operator set, not ours.

A worker that is started from a bound process inherits its mask. Taken for a limit, it would keep a worker for a
GPU of node 1 on node 0 for ever. So each binding leaves a note, `bound<original` (`4-7<0-7`), valid only while
the mask is still the one we set: a later `taskset` or cpuset is a limit again. The note travels three ways: in
this process's memory (and its forks), in the variable `AFFINITY_BOUND` of a process that called `bind()` or was
started through `affinity run`, and in `-X affinity=…` on the command line of a worker started inside `spawning()`,
which changes no environment. It also tells our memory policy from one that somebody else gave the process.
"""

from __future__ import annotations

import weakref

import attrs

from affinity.errors import ListFormatError
from affinity.kernel.mempolicy import MemoryPolicy
from affinity.kernel.protocol import Kernel
from affinity.topology.cpuset import CpuSet

VARIABLE = "AFFINITY_BOUND"


@attrs.frozen
class Note:
    """bound: the mask we set. original: the mask before. memory: the policy we set, as `preferred:1`; "" for none.
    worker: whose it is: PCI addresses, or `node:1,2`."""

    bound: CpuSet
    original: CpuSet
    memory: str = ""
    worker: str = ""

    def __str__(self) -> str:
        return f"{self.bound}<{self.original};{self.memory};{self.worker}".rstrip(";")

    @classmethod
    def parse(cls, text: str) -> Note | None:
        """None for text that is no note: a stranger's value must not stop a worker."""
        masks, memory, worker, *_ = [*text.split(";", 2), "", ""]
        bound, arrow, original = masks.partition("<")
        try:
            return cls(CpuSet.parse(bound), CpuSet.parse(original), memory, worker) if arrow else None
        except ListFormatError:
            return None


_notes: weakref.WeakKeyDictionary[Kernel, Note] = weakref.WeakKeyDictionary()
_born: weakref.WeakKeyDictionary[Kernel, Note] = weakref.WeakKeyDictionary()  # of a worker that was forked


def remember(kernel: Kernel, note: Note | None) -> Note | None:
    """Keep the note of a bind (None after an undo), for this process and its children; gives the one before."""
    before = _notes.pop(kernel, None)
    if note is None:
        kernel.environ.pop(VARIABLE, None)
    else:
        _notes[kernel] = note
        kernel.environ[VARIABLE] = str(attrs.evolve(note, worker=""))
    return before


def forked(kernel: Kernel, note: Note) -> None:
    """This process is a worker that was forked: it has no command line of its own to tell it what `spawn_note` does."""
    _notes.pop(kernel, None)  # the parent's
    _born[kernel] = note


def spawn_note(kernel: Kernel) -> Note | None:
    """What the parent told this worker: at its fork, or on its command line."""
    if kernel in _born:
        return _born[kernel]
    text = kernel.xoptions.get("affinity")
    return Note.parse(text) if isinstance(text, str) else None


def ours(kernel: Kernel) -> Note | None:
    """The note that explains the calling thread's mask; None where the mask is not our doing."""
    notes = _told(kernel)
    if not notes:
        return None
    mask, online = kernel.get_affinity(), kernel.online()  # a CPU that went offline is no limit anybody set
    return next((note for note in notes if note.bound & online == mask), None)


def set_by_us(policy: MemoryPolicy, kernel: Kernel) -> bool:
    """Whether we gave this process its memory policy.

    Nobody can do so from outside once it runs, so what it set itself is ours whatever a cpuset has made of it since;
    what it was born with must be what we wrote down.
    """
    mine = _notes.get(kernel)
    return (mine is not None and mine.memory != "") or any(note.memory == str(policy) for note in _told(kernel))


def _told(kernel: Kernel) -> list[Note]:
    """Every note there is, the latest first."""
    told = _notes.get(kernel), spawn_note(kernel), Note.parse(kernel.environ.get(VARIABLE, ""))
    return [note for note in told if note is not None]


def allowed_before(kernel: Kernel) -> CpuSet:
    """The CPUs this process may use, whatever this framework has narrowed since."""
    note = ours(kernel)
    return note.original if note is not None else kernel.get_affinity()
