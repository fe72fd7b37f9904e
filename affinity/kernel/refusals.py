"""Which refused call an OSError is about: those of a bind as distinct from a plugin's own.

Errors name their call in `filename`, as those of files name their path. Python's own os.sched_setaffinity names none.
"""

from __future__ import annotations

import os

_CALLS = frozenset(
    {"sched_setaffinity", "sched_getaffinity", "set_mempolicy", "get_mempolicy", "mbind", "move_pages", "migrate_pages",
     "process_vm_readv"}
)  # fmt: skip

#: What a move of pages calls, and the files of /proc that it reads.
_MOVING = frozenset({"move_pages", "migrate_pages", "pagemap", "maps"})


def is_of_bind(error: OSError) -> bool:
    """Return whether the kernel refused a call of a bind, or a file of /proc or /sys, in its own words."""
    words = os.strerror(error.errno or 0)
    if error.filename is None:
        return error.strerror == words
    of_kernel = error.filename in _CALLS or str(error.filename).startswith(("/proc/", "/sys/"))
    return of_kernel and str(error.strerror).startswith(words)


def is_of_masks(error: OSError) -> bool:
    """Return whether a thread could not be given its CPUs."""
    return bool(error.filename == "sched_setaffinity")


def is_of_pages(error: OSError) -> bool:
    """Return whether pages could not be moved."""
    return os.path.basename(str(error.filename)) in _MOVING
