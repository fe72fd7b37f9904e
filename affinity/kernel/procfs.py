"""What files of a process in /proc tell. Sources: proc(5), numa(7)."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from affinity.errors import SystemFileError
from affinity.kernel.mempolicy import MemoryMode, MemoryPolicy
from affinity.topology.cpuset import CpuSet, NodeSet

_SHOWN = {
    "default": MemoryMode.DEFAULT,
    "local": MemoryMode.LOCAL,
    "prefer": MemoryMode.PREFERRED,
    "prefer (many)": MemoryMode.PREFERRED_MANY,
    "bind": MemoryMode.BIND,
    "interleave": MemoryMode.INTERLEAVE,
    "weighted interleave": MemoryMode.WEIGHTED_INTERLEAVE,
}


def mempolicy_of_maps() -> MemoryPolicy | None:
    """The calling thread's policy in its numa_maps file, which no seccomp profile hides; None where it is not told.

    A mapping without a policy of its own shows the thread's; the lowest is the program's text or a driver's, which
    nobody gives one. Source: mpol_to_str() in mm/mempolicy.c, which writes at most 63 characters, so a longer one
    may be cut.
    """
    try:
        with open("/proc/thread-self/numa_maps", "rb", buffering=0) as maps:  # no more of it: each line costs a walk
            line = maps.read(256).decode("ascii", errors="replace").partition("\n")[0]
    except OSError:
        return None
    found = re.match(r"[0-9a-f]+ (([a-z]+(?: \(many\)| interleave)?)(?:=[a-z|]+)?(?::([0-9,-]+))?)(?: |$)", line)
    if found is None or len(found[1]) >= 63 or found[2] not in _SHOWN:
        return None
    return MemoryPolicy(_SHOWN[found[2]], NodeSet.parse(found[3] or ""))


@contextmanager
def own_files() -> Iterator[None]:
    """Raise SystemFileError in place of an OSError that a file of this very process or of the system gives."""
    try:
        yield
    except OSError as refused:
        raise SystemFileError(refused.errno, refused.strerror, refused.filename) from None


def raise_if_exhausted(refused: OSError) -> None:
    """Raise SystemFileError if no file at all can be opened now: then this one is unknown, not absent."""
    if refused.errno in (errno.EMFILE, errno.ENFILE):
        raise SystemFileError(refused.errno, refused.strerror, refused.filename) from None


PARENT, START_TIME = 1, 19  # fields of `read_stat`: the parent's PID; the start in clock ticks since boot


def read_stat(directory: str) -> list[str]:
    """The fields of a process's stat file after its name, which may hold anything; the first is its state.

    Raises FileNotFoundError or ProcessLookupError where it has ended. Source: proc(5).
    """
    with open(f"{directory}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def start_time(directory: str) -> str:
    """Return when the process started, in clock ticks since boot, which every user may read.

    Raises FileNotFoundError or ProcessLookupError if it has ended, also for a zombie.
    """
    fields = read_stat(directory)
    if fields[0] in ("Z", "X"):
        raise ProcessLookupError(errno.ESRCH, "the process has ended", directory)
    return fields[START_TIME]


def process_identity(directory: str) -> list[str]:
    """Return PID namespace and start time: with the PID, one process and no other. Errors as `start_time`."""
    started = start_time(directory)  # first: it recognises a zombie
    return [os.readlink(f"{directory}/ns/pid"), started]


def identity_text(directory: str, pid: int) -> str:
    """Return PID, start time and boot of a process as one text, the PID alone if /proc does not show it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot:
            return f"{pid}-{start_time(directory)}-{boot.read(8)}"
    except OSError as refused:
        raise_if_exhausted(refused)
        return str(pid)


def online_cpus() -> CpuSet:
    """Return the CPUs that are online."""
    try:
        with open("/sys/devices/system/cpu/online", encoding="ascii") as online:
            return CpuSet.parse(online.read())
    except OSError as refused:  # no sysfs in this container
        raise_if_exhausted(refused)
        return CpuSet(range(os.cpu_count() or 1))


def process_age(directory: str, now: float) -> float:
    """Return the seconds from the start of the process to `now`, a reading of CLOCK_BOOTTIME."""
    return now - int(read_stat(directory)[START_TIME]) / os.sysconf("SC_CLK_TCK")


def xoption(argv: Sequence[str], name: str) -> str:
    """Return the value of an interpreter's `-X name=value` in a Python command line, "" if there is none."""
    for option, value in pairwise(argv):
        if option in ("-c", "-m"):
            break
        if option == "-X" and value.startswith(f"{name}="):
            return value.partition("=")[2]
    return ""


def anonymous_bytes(maps: Iterable[str]) -> dict[int, int]:
    """Bytes of anonymous pages by node, from the lines of a numa_maps file. Source: numa(7)."""
    found: dict[int, int] = {}
    for line in maps:
        if " anon=" not in line or " file=" in line:
            continue
        fields = [f.partition("=") for f in line.split()]
        size = next((int(v) * 1024 for k, _, v in fields if k == "kernelpagesize_kB"), 4096)
        for key, _, value in fields:
            if key[:1] == "N" and key[1:].isdigit():
                found[int(key[1:])] = found.get(int(key[1:]), 0) + int(value) * size
    return found
