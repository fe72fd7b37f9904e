"""Doing without a capability for one call. Source: capabilities(7), capget(2)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

SYS_NICE = 23

_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two sets of effective, permitted and inheritable


@contextmanager
def capability_dropped(capability: int) -> Iterator[None]:
    """Within the block, the calling thread does not use this capability (below 32); others are not touched."""
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    bit = 1 << capability
    if libc.capget(header, sets) or not sets[0] & bit:
        yield
        return
    sets[0] &= ~bit
    libc.capset(header, sets)
    try:
        yield
    finally:
        sets[0] |= bit
        libc.capset(header, sets)
