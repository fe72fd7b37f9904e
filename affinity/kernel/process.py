"""`LinuxProcess`: another process of this machine, by its PID. Source: proc(5)."""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from affinity.errors import UsageError
from affinity.kernel import syscalls
from affinity.kernel.mempolicy import MemoryPolicy
from affinity.kernel.migration import migrate_pages
from affinity.kernel.pages import COUNT_SECONDS, ResidentBytes, resident_bytes
from affinity.kernel.procfs import (
    FLAGS,
    KERNEL_THREAD,
    PARENT,
    START_TIME,
    allowed_nodes,
    available_bytes,
    cgroup,
    command_line,
    cpuset_cpus,
    effective_user,
    identity_text,
    mempolicy_of_maps,
    online_cpus,
    process_age,
    read_stat,
    require_move_target,
    require_own_proc,
    start_time,
    thread_ids,
    xoption,
)
from affinity.topology.cpuset import CpuSet, NodeSet


class LinuxProcess:
    """A process that runs now, and stays the same one: a PID that was given to another process is ProcessLookupError.

    Raises ProcessLookupError if there is no such process, PermissionError for a kernel thread, which belongs to the
    kernel, and OSError if /proc is of another PID namespace, where the PID would be another process's.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._directory = f"/proc/{pid}"
        # The main thread's file: for that of the process the kernel adds up its threads, under a lock of theirs.
        self._stat = f"{self._directory}/task/{pid}"
        require_own_proc()
        try:
            fields = read_stat(self._stat)
        except FileNotFoundError:
            raise ProcessLookupError(errno.ESRCH, "no such process", self._directory) from None
        if int(fields[FLAGS]) & KERNEL_THREAD:
            raise PermissionError(errno.EPERM, "a kernel thread", self._directory)
        self._started = fields[START_TIME]

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def is_this_process(self) -> bool:
        return False

    def identity(self) -> str:
        return identity_text(self._pid, self._started)

    @property
    def environ(self) -> Mapping[str, str]:
        """Its initial variables. PermissionError for another user's process."""
        fields = (field.partition("=") for field in self._strings("environ"))
        return {name: value for name, equals, value in fields if equals}

    def owner(self) -> int:
        with self._reading() as directory:
            return effective_user(directory)

    def command(self) -> Sequence[str]:
        with self._reading() as directory:
            return command_line(directory)

    @property
    def handoff(self) -> str:
        return xoption(self._strings("cmdline"), "affinity")

    def thread_id(self) -> int:
        return self._pid

    def parent(self) -> LinuxProcess | None:
        try:
            with self._reading() as directory:
                return process_of(int(read_stat(directory)[PARENT]))
        except ProcessLookupError:
            return None

    def threads(self) -> Sequence[int]:
        with self._reading() as directory:
            return thread_ids(directory)

    def get_affinity(self, tid: int = 0) -> CpuSet:
        with self._reading(tid or self._pid):
            return syscalls.get_affinity(tid or self._pid)

    def set_affinity(self, tid: int, cpus: CpuSet) -> None:
        self._check(tid or self._pid)
        syscalls.set_affinity(tid or self._pid, cpus)

    def online(self) -> CpuSet:
        return online_cpus()

    def allowed_nodes(self) -> NodeSet:
        with self._reading() as directory:
            return allowed_nodes(directory)

    def get_mempolicy(self, tid: int = 0) -> MemoryPolicy:
        with self._reading(tid or self._pid) as directory:
            return mempolicy_of_maps(directory)

    def resident_bytes(self, longest: float = COUNT_SECONDS) -> ResidentBytes:
        with self._reading() as directory:
            return resident_bytes(directory, self._pid, longest=longest)

    def affinities(self) -> Mapping[int, CpuSet]:
        found = {}
        with self._reading() as directory:
            for tid in thread_ids(directory):
                with suppress(ProcessLookupError):  # the thread has ended
                    found[tid] = syscalls.get_affinity(tid)
            # The number of a thread that has ended may be another process's since.
            return {tid: found[tid] for tid in thread_ids(directory) if tid in found}

    def mempolicies(self) -> Mapping[int, MemoryPolicy]:
        found = {}
        with self._reading() as directory:
            for tid in thread_ids(directory):
                try:
                    found[tid] = mempolicy_of_maps(f"{directory}/task/{tid}")
                except OSError as refused:
                    if refused.errno not in (errno.ENOENT, errno.ESRCH, errno.ENODATA):  # it has ended, or shows none
                        raise
            return found

    def migrate_pages(self, origin: NodeSet, target: NodeSet) -> int:
        with self._reading() as directory:
            require_move_target(target, allowed_nodes(directory))
            return migrate_pages(directory, self._pid, origin, target)

    def available_bytes(self, node: int) -> int:
        return available_bytes(node)

    def cgroup(self) -> str:
        with self._reading() as directory:
            return cgroup(directory)

    def cpuset_cpus(self) -> CpuSet:
        with self._reading() as directory:
            found = cpuset_cpus(directory)
            # In a container with the PIDs of the host, the files are those of the container's own control group.
            return found if syscalls.get_affinity(self._pid) <= found else online_cpus()

    @contextmanager
    def watched(self) -> Iterator[None]:
        try:
            descriptor = os.pidfd_open(self._pid)
        except ProcessLookupError:
            raise
        except OSError as refused:
            if refused.errno in (errno.EINVAL, errno.ENOENT):
                raise UsageError(
                    f"{self._pid} is a thread, not a process: give the id of the process that it belongs to"
                ) from None
            descriptor = -1  # before Linux 5.3, or refused by a seccomp filter: the start time alone identifies it
        try:
            self._check()  # the PID is still this process's, and so is the descriptor
            yield
            ended = select.poll()
            if descriptor >= 0:
                ended.register(descriptor, select.POLLIN)
            if ended.poll(0):
                raise ProcessLookupError(errno.ESRCH, "the process has ended", self._directory)
            self._check()
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def age(self) -> float:
        with self._reading() as directory:
            return process_age(directory, time.clock_gettime(time.CLOCK_BOOTTIME))

    def _strings(self, name: str) -> list[str]:
        with self._reading() as directory, open(f"{directory}/{name}", "rb") as file:
            return os.fsdecode(file.read()).split("\0")

    @contextmanager
    def _reading(self, tid: int | None = None) -> Iterator[str]:
        """Yield the directory of the process or of a thread; at the end of the block, `_check` that it was theirs."""
        try:
            yield f"{self._directory}/task/{tid}" if tid else self._directory
        except FileNotFoundError:
            self._check(tid)
            raise
        self._check(tid)

    def _check(self, tid: int | None = None) -> None:
        """Raise ProcessLookupError if the process has ended, its PID is another's now, or it has no thread `tid`."""
        require_own_proc()
        try:
            started = start_time(self._stat)
        except FileNotFoundError:
            raise ProcessLookupError(errno.ESRCH, "the process has ended", self._directory) from None
        if started != self._started:
            raise ProcessLookupError(errno.ESRCH, "the PID belongs to another process now", self._directory)
        if tid and not os.path.isdir(f"{self._directory}/task/{tid}"):
            raise ProcessLookupError(errno.ESRCH, "the process has no such thread", f"{self._directory}/task/{tid}")


def process_of(pid: int) -> LinuxProcess | None:
    """Return the process of this PID, None if it has ended, is of another PID namespace (0) or cannot be seen."""
    try:
        return LinuxProcess(pid) if pid > 0 else None
    except OSError:
        return None
