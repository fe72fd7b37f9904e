"""`LinuxKernel`: this process on the real kernel.

Sources: sched_setaffinity(2), set_mempolicy(2), get_mempolicy(2), move_pages(2), proc(5), numa(7),
Documentation/admin-guide/mm/numa_memory_policy.rst.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

from affinity.kernel import syscalls
from affinity.kernel.mempolicy import MemoryPolicy
from affinity.kernel.migration import migrate_pages
from affinity.kernel.pages import COUNT_SECONDS, ResidentBytes, resident_bytes

# Not in the methods: a process that has changed its user may be unable to import.
from affinity.kernel.process import LinuxProcess, process_of
from affinity.kernel.procfs import (
    allowed_nodes,
    available_bytes,
    cgroup,
    command_line,
    cpuset_cpus,
    effective_user,
    identity_text,
    mempolicy_of_maps,
    online_cpus,
    own_files,
    process_age,
    raise_if_exhausted,
    require_move_target,
    require_own_proc,
    start_time,
    thread_ids,
)
from affinity.kernel.protocol import Process
from affinity.topology.cpuset import CpuSet, NodeSet


class LinuxKernel:
    """The real one. Reads nothing and loads nothing until it is asked."""

    @property
    def environ(self) -> MutableMapping[str, str]:
        return os.environ

    def owner(self) -> int:
        with own_files():
            return effective_user("/proc/self")

    def command(self) -> Sequence[str]:
        with own_files():
            return command_line("/proc/self")

    @property
    def handoff(self) -> str:
        module = sys.modules.get("multiprocessing.process")
        worker = module.current_process() if module is not None else None
        # A worker's own object has it however it was started; a fork of a spawned worker inherits `-X` as well.
        if getattr(worker, "_parent_pid", None) is not None:
            return str(getattr(worker, "_affinity_handoff", ""))
        value = sys._xoptions.get("affinity", "")  # before that object arrives
        return value if isinstance(value, str) else ""

    def identity(self) -> str:
        try:
            return identity_text(os.getpid(), start_time("/proc/self"))
        except OSError as refused:
            raise_if_exhausted(refused)
            return str(os.getpid())

    def thread_id(self) -> int:
        import threading

        return threading.get_native_id()

    @property
    def pid(self) -> int:
        return os.getpid()

    @property
    def is_this_process(self) -> bool:
        return True

    def parent(self) -> Process | None:
        return process_of(os.getppid())

    def process(self, pid: int) -> Process:
        return self if pid == os.getpid() else LinuxProcess(pid)

    def pids(self) -> Mapping[int, int]:
        require_own_proc()
        with os.scandir("/proc") as listed:  # the inode is made with the listing: proc_fill_cache() in fs/proc/base.c
            return {int(entry.name): entry.inode() for entry in listed if entry.name.isdecimal()}

    def processes(self) -> Iterator[Process]:
        require_own_proc()
        for name in os.listdir("/proc"):
            process = process_of(int(name)) if name.isdecimal() else None
            if process is not None:
                yield self if process.pid == os.getpid() else process

    def threads(self) -> Sequence[int]:
        with own_files():
            require_own_proc()
            return thread_ids("/proc/self")

    def get_affinity(self, tid: int = 0) -> CpuSet:
        return syscalls.get_affinity(tid)

    def set_affinity(self, tid: int, cpus: CpuSet) -> None:
        syscalls.set_affinity(tid, cpus)

    def online(self) -> CpuSet:
        return online_cpus()

    def allowed_nodes(self) -> NodeSet:
        with own_files():
            return allowed_nodes("/proc/thread-self")

    def get_mempolicy(self, tid: int = 0) -> MemoryPolicy:
        if tid not in (0, self.thread_id()):
            return LinuxProcess(self.pid).get_mempolicy(tid)
        try:
            return syscalls.get_mempolicy()
        except OSError as refused:
            try:
                return mempolicy_of_maps("/proc/thread-self")
            except OSError:
                raise refused from None

    def affinities(self) -> Mapping[int, CpuSet]:
        with own_files():
            return LinuxProcess(self.pid).affinities()

    def mempolicies(self) -> Mapping[int, MemoryPolicy]:
        return LinuxProcess(self.pid).mempolicies()

    def set_mempolicy(self, policy: MemoryPolicy) -> None:
        syscalls.set_mempolicy(policy)

    def set_mempolicy_libnuma(self, policy: MemoryPolicy) -> None:
        from affinity.kernel.libnuma import set_policy

        set_policy(policy)

    def libnuma_error(self) -> str:
        try:
            ctypes.CDLL("libnuma.so.1")
        except OSError as missing:
            return f"libnuma.so.1 cannot be loaded ({missing}): apt-get install libnuma1"
        return ""

    def migrate_pages(self, origin: NodeSet, target: NodeSet) -> int:
        with own_files():
            require_move_target(target, self.allowed_nodes())
            return migrate_pages("/proc/self", 0, origin, target)

    def available_bytes(self, node: int) -> int:
        return available_bytes(node)

    def cgroup(self) -> str:
        with own_files():
            return cgroup("/proc/self")

    def cpuset_cpus(self) -> CpuSet:
        with own_files():
            return cpuset_cpus("/proc/self")

    @contextmanager
    def watched(self) -> Iterator[None]:
        yield

    def resident_bytes(self, longest: float = COUNT_SECONDS) -> ResidentBytes:
        with own_files():
            return resident_bytes("/proc/self", 0, longest=longest)

    def age(self) -> float:
        with own_files():
            return process_age("/proc/self", time.clock_gettime(time.CLOCK_BOOTTIME))

    def check_page_moves(self) -> None:
        syscalls.page_nodes(0, ())

    def check_command(self, argv: Sequence[str], timeout: float) -> str | None:
        from affinity.kernel.command import probe

        return probe(argv, timeout)

    def exec(self, argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execvpe(argv[0], list(argv), dict(environ))


#: This process's kernel. One object: the record and the report of a bind are kept by it.
THIS_PROCESS = LinuxKernel()
