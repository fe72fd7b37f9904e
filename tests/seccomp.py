"""Run a command whose system calls the kernel refuses, as a container's seccomp profile does.

    python tests/seccomp.py EPERM set_mempolicy,mbind -- COMMAND ...

Only these calls are refused, with this errno or, for KILL, by the end of the process (SIGSYS), for the command and all
that it starts: a filter outlives exec and cannot be taken off. Sources: seccomp(2), prctl(2), linux/audit.h,
linux/bpf_common.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Sequence

#: What Docker's default profile refuses a container without CAP_SYS_NICE; the last two also with it.
DOCKER = ("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node", "migrate_pages", "move_pages")

#: The calls' numbers: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
NUMBERS = {
    "x86_64": {
        "ioctl": 16,
        "sched_setaffinity": 203,
        "mbind": 237,
        "set_mempolicy": 238,
        "get_mempolicy": 239,
        "migrate_pages": 256,
        "move_pages": 279,
        "set_mempolicy_home_node": 450,
        "pidfd_open": 434,
    },
    "aarch64": {
        "ioctl": 29,
        "sched_setaffinity": 122,
        "mbind": 235,
        "get_mempolicy": 236,
        "set_mempolicy": 237,
        "migrate_pages": 238,
        "move_pages": 239,
        "set_mempolicy_home_node": 450,
        "pidfd_open": 434,
    },
}

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2


def prefix(number: str, *calls: str) -> tuple[str, ...]:
    """What to put in front of a command: `prefix("EPERM", "set_mempolicy")`."""
    return (sys.executable, "-I", os.path.abspath(__file__), number, ",".join(calls), "--")


def program(machine: str, number: int | None, calls: Sequence[str]) -> bytes:
    """The filter (None: it kills), as an array of struct sock_filter. A call of another architecture is let through."""
    steps = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for name in calls:
        steps += [(_EQUAL, 0, 1, NUMBERS[machine][name]), (_RETURN, 0, 0, _KILL if number is None else _ERRNO | number)]
    return b"".join(struct.pack("=HBBI", *step) for step in (*steps, (_RETURN, 0, 0, _ALLOW)))


def refuse(number: int | None, calls: Sequence[str]) -> None:
    """From now on these calls of the calling thread, and of what it starts, fail with this errno, or kill."""
    text = program(platform.machine(), number, calls)
    code = ctypes.create_string_buffer(text, len(text))
    # struct sock_fprog: a length, and at the next pointer's alignment where the program is.
    head = struct.pack("@HP", len(text) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    ulong = ctypes.c_ulong
    for option, *values in ((_PR_SET_NO_NEW_PRIVS, 1, 0), (_PR_SET_SECCOMP, _MODE_FILTER, head)):
        arguments = [ulong(v) if isinstance(v, int) else ctypes.c_char_p(v) for v in values]
        if libc.prctl(option, *arguments, ulong(0), ulong(0)):
            raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def main(argv: Sequence[str]) -> None:
    """Install the filter and become the command."""
    number, calls, dashes, *command = argv
    assert dashes == "--", __doc__
    refuse(None if number == "KILL" else getattr(errno, number), calls.split(","))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
