"""`Kernel`: every system call this package makes, as a protocol.

Sources: sched_setaffinity(2), set_mempolicy(2), get_mempolicy(2), migrate_pages(2).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import NoReturn, Protocol

from affinity.kernel.mempolicy import MemoryPolicy
from affinity.topology.cpuset import CpuSet, NodeSet


class Kernel(Protocol):
    """The operating system, as far as binding needs it. A refused call raises OSError with its errno.

    `tid` 0 is the calling thread. Sizes are bytes.
    """

    @property
    def environ(self) -> MutableMapping[str, str]:
        """This process's environment."""

    @property
    def xoptions(self) -> Mapping[str, str | bool]:
        """The interpreter's `-X` options."""

    def thread_id(self) -> int:
        """The calling thread's id."""

    def process_id(self) -> int:
        """This process's id, which is its main thread's id."""

    def threads(self) -> Sequence[int]:
        """The ids of this process's threads."""

    def get_affinity(self, tid: int = 0) -> CpuSet:
        """The CPUs a thread may run on. ProcessLookupError where it has ended."""

    def set_affinity(self, tid: int, cpus: CpuSet) -> None:
        """Let one thread run on these CPUs only."""

    def online(self) -> CpuSet:
        """The CPUs that are online."""

    def allowed_nodes(self) -> NodeSet:
        """The nodes this process may take memory from (`Mems_allowed_list`)."""

    def get_mempolicy(self) -> MemoryPolicy:
        """The calling thread's memory policy; where the call is refused, as numa_maps shows it."""

    def set_mempolicy(self, policy: MemoryPolicy) -> None:
        """Give the calling thread a memory policy: it governs pages touched from now on."""

    def set_mempolicy_libnuma(self, policy: MemoryPolicy) -> None:
        """The same through libnuma, which reports no failure: read back. BindError without libnuma."""

    def libnuma_error(self) -> str:
        """Why libnuma cannot be used and what to do; empty where it can."""

    def migrate_pages(self, origin: NodeSet, target: NodeSet) -> int:
        """Move this process's pages from `origin` to `target`; gives the number of pages left behind."""

    def resident_bytes(self) -> Mapping[int, int]:
        """Bytes of this process's own (anonymous) pages by node, from numa_maps."""

    def age(self) -> float:
        """Seconds since this process started."""

    def check_command(self, argv: Sequence[str], timeout: float) -> str | None:
        """Run a command to its end: None where it exits 0, else what it said of the failure."""

    def exec(self, argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
        """Become this command."""
