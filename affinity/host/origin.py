"""What was allowed before this framework first bound anything: the limit the operator set, not ours.

A worker that is started from a bound process inherits its mask. Taken for a limit, it would keep a worker for a
GPU of node 1 on node 0 for ever. So each binding leaves a note, `bound<original` (`4-7<0-7`), valid only while
the mask is still the one we set: a later `taskset` or cpuset is a limit again. The note travels three ways: in
this process's memory (and its forks), in the variable `AFFINITY_BOUND` of a process that called `bind()` or was
started through `affinity run`, and in `-X affinity=…` on the command line of a worker started inside `spawning()`,
which changes no environment.
"""

from __future__ import annotations

import weakref

import attrs

from affinity.errors import ListFormatError
from affinity.host.cpuset import CpuSet
from affinity.host.kernel import Kernel

VARIABLE = "AFFINITY_BOUND"


@attrs.frozen
class Note:
    """bound: the mask we set. original: the mask before. worker: whose it is: PCI addresses, or `node:1,2`."""

    bound: CpuSet
    original: CpuSet
    worker: str = ""

    def __str__(self) -> str:
        return f"{self.bound}<{self.original}" + (f";{self.worker}" if self.worker else "")

    @classmethod
    def parse(cls, text: str) -> Note | None:
        """None for text that is no note: a stranger's value must not stop a worker."""
        masks, _, worker = text.partition(";")
        bound, arrow, original = masks.partition("<")
        try:
            return cls(CpuSet.parse(bound), CpuSet.parse(original), worker) if arrow else None
        except ListFormatError:
            return None


_notes: weakref.WeakKeyDictionary[Kernel, Note] = weakref.WeakKeyDictionary()


def remember(kernel: Kernel, note: Note | None) -> Note | None:
    """Keep the note of a bind (None after an undo), for this process and its children; gives the one before."""
    before = _notes.pop(kernel, None)
    if note is None:
        kernel.environ.pop(VARIABLE, None)
    else:
        _notes[kernel] = note
        kernel.environ[VARIABLE] = f"{note.bound}<{note.original}"
    return before


def spawn_note(kernel: Kernel) -> Note | None:
    """What the parent wrote on this worker's command line."""
    text = kernel.xoptions.get("affinity")
    return Note.parse(text) if isinstance(text, str) else None


def ours(kernel: Kernel) -> Note | None:
    """The note that explains the calling thread's mask; None where the mask is not our doing."""
    told = _notes.get(kernel), spawn_note(kernel), Note.parse(kernel.environ.get(VARIABLE, ""))
    notes = [note for note in told if note is not None]
    mask = kernel.get_affinity() if notes else None
    return next((note for note in notes if note.bound == mask), None)


def allowed_before(kernel: Kernel) -> CpuSet:
    """The CPUs this process may use, whatever this framework has narrowed since."""
    note = ours(kernel)
    return note.original if note is not None else kernel.get_affinity()
