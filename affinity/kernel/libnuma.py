"""libnuma, through py-libnuma, with the traps of py-libnuma 1.2 kept shut.

Its helpers that parse a list end the process by SIGSEGV on a node libnuma rejects, and its import is an
AttributeError where libnuma.so.1 is missing. So: imported here only, when used; only its `LIBNUMA` handle
and `bitmask_t`; the caller checks nodes against what is allowed first and reads back after.
Source: numa(3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from affinity.errors import BindError
from affinity.kernel.mempolicy import MemoryMode, MemoryPolicy


def load() -> Any:
    """py-libnuma's module. Raises BindError, with a remedy, where it or libnuma.so.1 is missing."""
    try:
        with _found():
            import numa
    except ImportError as missing:
        raise BindError(f"py-libnuma is missing ({missing}): pip install py-libnuma") from missing
    except (AttributeError, OSError) as missing:
        raise BindError(f"libnuma.so.1 is missing ({missing}): apt-get install libnuma1") from missing
    if not hasattr(numa, "LIBNUMA"):
        where = getattr(numa, "__file__", "?")
        raise BindError(f"the module numa is {where}, which is not py-libnuma: rename it, or install py-libnuma first")
    return numa


@contextmanager
def _found() -> Iterator[None]:
    """Within the block, `find_library("numa")` returns at once the name that the loader resolves.

    py-libnuma calls it at its import. The original runs ldconfig, and if that lists no libnuma, a gcc or an ld from
    anywhere on PATH: a subprocess of 15 ms in each worker, and a program of unknown origin.
    """
    import ctypes.util

    search = ctypes.util.find_library
    ctypes.util.find_library = lambda name: "libnuma.so.1" if name == "numa" else search(name)
    try:
        yield
    finally:
        ctypes.util.find_library = search


def set_policy(policy: MemoryPolicy) -> None:
    """Give the calling thread this policy through libnuma.

    libnuma reports failure by a line on stderr and no value, so the caller reads back.
    Raises BindError where libnuma, or the function for this mode, is missing.
    """
    numa = load()
    lib = numa.LIBNUMA
    if lib.numa_available() < 0:
        raise BindError(
            "libnuma reports that this kernel has no NUMA policy (numa_available() is -1): "
            "a kernel with CONFIG_NUMA and a seccomp profile that allows get_mempolicy are expected"
        )
    match policy.mode:
        case MemoryMode.LOCAL:
            lib.numa_set_localalloc()
        case MemoryMode.PREFERRED:
            lib.numa_set_preferred(policy.nodes.first())
        case MemoryMode.BIND:
            _with_mask(numa, policy, lib.numa_set_membind)
        case MemoryMode.INTERLEAVE:
            _with_mask(numa, policy, lib.numa_set_interleave_mask)
        case MemoryMode.PREFERRED_MANY if hasattr(lib, "numa_set_preferred_many"):
            _with_mask(numa, policy, lib.numa_set_preferred_many)
        case _:
            raise BindError(f"this libnuma has no call for memory policy {policy}: libnuma 2.0.15 or later")


def _with_mask(numa: Any, policy: MemoryPolicy, call: Any) -> None:
    import ctypes

    lib = numa.LIBNUMA
    pointer = ctypes.POINTER(numa.bitmask_t)
    lib.numa_bitmask_setbit.argtypes = [pointer, ctypes.c_uint]
    lib.numa_bitmask_setbit.restype = pointer
    lib.numa_bitmask_free.argtypes = [pointer]
    call.argtypes, call.restype = [pointer], None
    mask = lib.numa_allocate_nodemask()
    try:
        for node in policy.nodes:
            if node < mask.contents.size:
                lib.numa_bitmask_setbit(mask, node)
        call(mask)
    finally:
        lib.numa_bitmask_free(mask)
