"""`Process` and `Kernel`: what this package asks of the operating system, as protocols.

Sources: sched_setaffinity(2), set_mempolicy(2), get_mempolicy(2), move_pages(2), proc(5), cpuset(7).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import NoReturn, Protocol

from affinity.errors import ForeignProcError
from affinity.kernel.mempolicy import MemoryPolicy
from affinity.kernel.pages import COUNT_SECONDS, ResidentBytes
from affinity.topology.cpuset import CpuSet, NodeSet


class Process(Protocol):
    """One process as the kernel shows it: this one, another by its PID, or a simulated one.

    A call that the system refuses raises OSError with its errno, ProcessLookupError if the process has ended.
    Sizes are bytes. `tid` 0 is the calling thread; of another process, its main thread.
    """

    @property
    def pid(self) -> int:
        """The process id, which is the main thread's id."""

    @property
    def is_this_process(self) -> bool:
        """True only for the real, current process: its sys.modules and Python objects may be looked at too."""

    def identity(self) -> str:
        """Return PID, start time and boot as one text, which no other process has."""

    @property
    def environ(self) -> Mapping[str, str]:
        """Its variables: current for this process, initial for another. PermissionError for another user's."""

    def owner(self) -> int:
        """Return the id of the user that it runs as (the effective one)."""

    def command(self) -> Sequence[str]:
        """Return its command line as it shows it now, which it may have rewritten; its name if it shows none."""

    @property
    def handoff(self) -> str:
        """What the parent that started it passed to it (affinity.handoff), "" for nothing."""

    def thread_id(self) -> int:
        """Return the calling thread's id; of another process, its main thread's."""

    def parent(self) -> Process | None:
        """Return the process that started this one, None if it has ended or cannot be seen."""

    def threads(self) -> Sequence[int]:
        """Return the ids of its threads. OSError if /proc does not show them, or is of another PID namespace."""

    def get_affinity(self, tid: int = 0) -> CpuSet:
        """Return the CPUs that a thread may run on. ProcessLookupError if the thread has ended."""

    def set_affinity(self, tid: int, cpus: CpuSet) -> None:
        """Let one of its threads run on these CPUs only."""

    def online(self) -> CpuSet:
        """Return the CPUs of its machine that are online."""

    def allowed_nodes(self) -> NodeSet:
        """Return the nodes that it may take memory from (`Mems_allowed_list`)."""

    def get_mempolicy(self, tid: int = 0) -> MemoryPolicy:
        """Return a thread's memory policy; if the call is refused or the thread another, as numa_maps shows it."""

    def affinities(self) -> Mapping[int, CpuSet]:
        """Return the CPUs of each of its threads: for many threads much faster than one by one."""

    def mempolicies(self) -> Mapping[int, MemoryPolicy]:
        """Return the memory policy of each of its threads that shows one. PermissionError for another user's."""

    def resident_bytes(self, longest: float = COUNT_SECONDS) -> ResidentBytes:
        """Return the bytes of its own (anonymous) pages by node: counted, or estimated if a count would stall it.

        longest: the seconds that a count may take.
        """

    def migrate_pages(self, origin: NodeSet, target: NodeSet) -> int:
        """Move its own pages from `origin` to `target`, in steps that do not stall it; return how many stay there.

        Pages that another process maps too stay. ENOMEM if a node is full: those moved until then are there.
        """

    def available_bytes(self, node: int) -> int:
        """Return the bytes of a node that are free or hold clean file pages."""

    def cgroup(self) -> str:
        """Return the path of its control group, as this process's namespace shows it."""

    def cpuset_cpus(self) -> CpuSet:
        """Return the CPUs that its cpuset has, whatever its mask: those that a mask can be widened to."""

    def watched(self) -> AbstractContextManager[None]:
        """Return a block that raises ProcessLookupError, at its begin or its end, if the process has ended by then.

        Raises UsageError at its begin if the PID is that of a thread.
        """

    def age(self) -> float:
        """Return the seconds since it started."""


_MAX_ANCESTORS = 64


def ancestors(process: Process) -> Iterator[Process]:
    """Yield the process that started this one, the one that started that, and so on, as far as they can be seen."""
    above = process.parent()
    for _ in range(_MAX_ANCESTORS):
        if above is None:
            return
        yield above
        above = above.parent()


def multiprocessing_parent(process: Process) -> int | None:
    """Return the PID of the process whose `Process.start()` started this one, None if `multiprocessing` did not.

    It may not be the parent: a fork server is between them. Known of this very process alone.
    """
    module = sys.modules.get("multiprocessing.process") if process.is_this_process else None
    parent = module.parent_process() if module is not None else None
    return parent.pid if parent is not None else None


def visible_threads(process: Process) -> Sequence[int]:
    """Return the ids of its threads, of the calling one alone if /proc is of another PID namespace."""
    try:
        return process.threads()
    except ForeignProcError:
        return (process.thread_id(),)


class Kernel(Process, Protocol):
    """This process, and what only a process can do for itself."""

    @property
    def environ(self) -> MutableMapping[str, str]:
        """This process's environment."""

    def process(self, pid: int) -> Process:
        """Return the process of this PID. OSError if /proc does not show it, ProcessLookupError if there is none."""

    def pids(self) -> Mapping[int, int]:
        """Return the PIDs of this machine, each with a number that changes if another process is given the PID.

        One look for all of them. The number may change for the same process, too: `identity` decides.
        """

    def processes(self) -> Iterator[Process]:
        """Return the processes of this machine that can be seen, without the kernel's own threads."""

    def set_mempolicy(self, policy: MemoryPolicy) -> None:
        """Give the calling thread a memory policy: it governs pages touched from now on."""

    def set_mempolicy_libnuma(self, policy: MemoryPolicy) -> None:
        """Do the same through libnuma, which reports no failure: read back. BindError without libnuma."""

    def libnuma_error(self) -> str:
        """Return why libnuma cannot be used and what to do; "" if it can."""

    def check_page_moves(self) -> None:
        """Raise OSError if this process may not move its pages. Move none."""

    def check_command(self, argv: Sequence[str], timeout: float) -> str | None:
        """Run a command to its end; return None if it exits 0, else its last message and how it ended.

        If the exit status is lost, as this process ignores SIGCHLD, output on stdout stands for success.
        """

    def exec(self, argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
        """Replace this process with a command."""
