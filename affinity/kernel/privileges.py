"""Capabilities of this process. Sources: capabilities(7), capset(2), include/uapi/linux/capability.h."""

from __future__ import annotations

import ctypes
import os

#: What binds and reads a process of another user: its masks; its memory map, pages and open files; the directories of
#: these, which its user alone may list.
KEPT = {"CAP_SYS_NICE": 23, "CAP_SYS_PTRACE": 19, "CAP_DAC_READ_SEARCH": 2}

_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_capabilities() -> None:
    """Drop every capability of the calling thread, for good, but those of KEPT."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    bits = sum(1 << number for number in KEPT.values())
    for call in (libc.capget, libc.capset):
        if call(ctypes.byref(header), data):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), call.__name__)
        permitted = data[0].permitted & bits
        data[0], data[1] = _Data(permitted, permitted, 0), _Data(0, 0, 0)
