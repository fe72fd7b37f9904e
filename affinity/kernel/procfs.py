"""Readers of a process's files in /proc. Sources: proc(5), numa(7)."""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from affinity.errors import ForeignProcError, SystemFileError
from affinity.kernel.mempolicy import MemoryFlag, MemoryMode, MemoryPolicy
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


def require_own_proc() -> None:
    """Raise ForeignProcError if /proc shows another PID namespace: its numbers are not those that calls take.

    As in `unshare --pid --fork` without `--mount-proc`. Source: pid_namespaces(7), "/proc and PID namespaces".
    """
    try:
        shown = os.readlink("/proc/self")
    except FileNotFoundError:
        if os.path.exists("/proc/stat"):  # mounted, by a namespace that does not have this process
            shown = ""
        else:
            raise
    if shown != str(os.getpid()):
        raise ForeignProcError(errno.EOPNOTSUPP, "of another PID namespace", "/proc")


def thread_ids(directory: str) -> list[int]:
    """Return the ids of the threads of a process."""
    return [int(name) for name in os.listdir(f"{directory}/task")]


def effective_user(directory: str) -> int:
    """Return the effective user id of a process, which every user may read."""
    with open(f"{directory}/status", encoding="utf-8", errors="replace") as status:
        for line in status:
            if line.startswith("Uid:"):
                return int(line.split()[2])
    raise OSError(errno.ENODATA, "no user is shown", f"{directory}/status")


def command_line(directory: str) -> list[str]:
    """Return the command line of a process, which every user may read; its name if it shows none."""
    with open(f"{directory}/cmdline", "rb") as file:
        words = os.fsdecode(file.read().rstrip(b"\0")).split("\0")
    if words != [""]:
        return words
    with open(f"{directory}/comm", "rb") as file:
        return [os.fsdecode(file.read()).rstrip("\n")]


def allowed_nodes(directory: str) -> NodeSet:
    """Return the nodes that a process or thread may take memory from."""
    with open(f"{directory}/status", encoding="utf-8", errors="replace") as status:
        for line in status:
            if line.startswith("Mems_allowed_list:"):
                return NodeSet.parse(line.partition(":")[2])
    return NodeSet([0])  # a kernel without NUMA: one implicit node


def mempolicy_of_maps(directory: str = "/proc/thread-self") -> MemoryPolicy:
    """Return a thread's policy from its numa_maps file, which no seccomp profile hides. Raise OSError if not shown.

    A mapping without a policy of its own shows the thread's; the lowest is the program's text or a driver's, which
    programs give none. Source: mpol_to_str() in mm/mempolicy.c, which writes at most 63 characters, so a longer one
    may be cut.
    """
    path = f"{directory}/numa_maps"
    maps = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:  # little of it: each line costs a walk of its pages
        line = os.read(maps, 96).decode("ascii", errors="replace").partition("\n")[0]
    finally:
        os.close(maps)
    policy = _shown_policy(line.partition(" ")[2])
    if policy is None:
        raise OSError(errno.ENODATA, "no memory policy is shown", path)
    return policy


@functools.lru_cache(maxsize=16)  # the threads of a process mostly share a policy, and their line
def _shown_policy(line: str) -> MemoryPolicy | None:
    """Return the policy in a line of numa_maps after its address, None if it shows none."""
    found = re.match(r"(([a-z]+(?: \(many\)| interleave)?)(?:=([a-z|]+))?(?::([0-9,-]+))?)(?: |$)", line)
    if found is None or len(found[1]) >= 63 or found[2] not in _SHOWN:
        return None
    flags = frozenset(flag for flag in MemoryFlag if flag.value in (found[3] or "").split("|"))
    return MemoryPolicy(_SHOWN[found[2]], NodeSet.parse(found[4] or ""), flags)


@contextmanager
def own_files() -> Iterator[None]:
    """Raise SystemFileError in place of an OSError that a file of this very process or of the system gives."""
    try:
        yield
    except SystemFileError:
        raise
    except OSError as refused:
        raise SystemFileError(refused.errno, refused.strerror, refused.filename) from None


def raise_if_exhausted(refused: OSError) -> None:
    """Raise SystemFileError if no file at all can be opened now: then this one is unknown, not absent."""
    if refused.errno in (errno.EMFILE, errno.ENFILE):
        raise SystemFileError(refused.errno, refused.strerror, refused.filename) from None


def require_move_target(target: NodeSet, allowed: NodeSet) -> None:
    """Raise OSError if pages cannot be moved to these nodes: none is given, or one is outside the process's cpuset."""
    if not target:
        raise OSError(errno.EINVAL, "no node to move pages to", "move_pages")
    if not target <= allowed:
        raise OSError(errno.EPERM, f"node {target - allowed} is outside the cpuset of the process", "move_pages")


def available_bytes(node: int) -> int:
    """Return the bytes of a node that are free or hold clean file pages. Source: proc(5), /proc/meminfo."""
    sizes = {}
    with open(f"/sys/devices/system/node/node{node}/meminfo", encoding="utf-8") as meminfo:
        for line in meminfo:
            _, _, key, value, *_ = line.split()
            sizes[key] = int(value) * 1024
    return sum(sizes.get(key, 0) for key in ("MemFree:", "Inactive(file):", "SReclaimable:"))


def cgroup(directory: str) -> str:
    """Return the path of a process's control group: the one of cpuset (version 1), else that of version 2."""
    found = "/"
    with open(f"{directory}/cgroup", encoding="utf-8", errors="replace") as groups:
        for line in groups:
            _, _, rest = line.rstrip("\n").partition(":")
            controllers, _, path = rest.partition(":")
            if "cpuset" in controllers.split(","):
                return path
            found = found if controllers else path
    return found


def cpuset_cpus(directory: str) -> CpuSet:
    """Return the CPUs that the cpuset of a process has, whatever its mask; all online ones if it cannot be read."""
    path = cgroup(directory)
    while True:
        for name in ("/cpuset{}/cpuset.effective_cpus", "{}/cpuset.cpus.effective"):
            try:
                with open("/sys/fs/cgroup" + name.format(path.rstrip("/")), encoding="utf-8") as cpus:
                    return CpuSet.parse(cpus.read())
            except FileNotFoundError:
                continue
        if path in ("", "/"):
            return online_cpus()
        path = os.path.dirname(path)  # a group without the controller has its parent's


PARENT, FLAGS, START_TIME = 1, 6, 19  # fields of `read_stat`; the start in clock ticks since boot
KERNEL_THREAD = 0x00200000  # PF_KTHREAD in include/linux/sched.h


def read_stat(directory: str) -> list[str]:
    """Return the fields of a process's stat file after its name, which may hold anything; the first is its state.

    Raise FileNotFoundError or ProcessLookupError if it has ended, also for a zombie. Source: proc(5).
    """
    with open(f"{directory}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        raise ProcessLookupError(errno.ESRCH, "the process has ended", directory)
    return fields


def start_time(directory: str) -> str:
    """Return when the process started, in clock ticks since boot, which every user may read. Errors as `read_stat`."""
    return read_stat(directory)[START_TIME]


def identity_text(pid: int, started: str) -> str:
    """Return PID, start time and boot of a process as one text."""
    # By UTF-8, whose codec is loaded already: a process that changed its user may be unable to import another one.
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as boot:
            return f"{pid}-{started}-{boot.read(8)}"
    except OSError as refused:
        raise_if_exhausted(refused)
        return f"{pid}-{started}"


def online_cpus() -> CpuSet:
    """Return the CPUs that are online."""
    try:
        with open("/sys/devices/system/cpu/online", encoding="utf-8") as online:
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
    """Return the bytes of anonymous pages by node, from the lines of a numa_maps file. Source: numa(7)."""
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
