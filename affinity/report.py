"""`BindReport`: what is in force now, read back from the kernel, and what was given up on the way."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping

import attrs

from affinity.errors import CannotBind
from affinity.host.cpuset import CpuSet
from affinity.host.kernel import Kernel, MemoryPolicy
from affinity.launch import Launch
from affinity.policy import Placement
from affinity.selector import Selection
from affinity.strategy import Outcome


@attrs.frozen
class Degradation:
    """One thing given up: what was tried, the errno's name ("" where none), the words, and what to do."""

    tried: str
    errno: str
    said: str
    remedy: str

    def __str__(self) -> str:
        code = f" [{self.errno}]" if self.errno else ""
        return f"{self.tried}: {self.said}{code}" + (f"; {self.remedy}" if self.remedy else "")

    @classmethod
    def of(cls, tried: str, error: OSError | CannotBind) -> Degradation:
        """From the error that a strategy raised."""
        if not isinstance(error, OSError):
            return cls(tried, "", str(error), "")
        name = errno.errorcode.get(error.errno or 0, "")
        call = f" in {error.filename}" if error.filename else ""
        return cls(tried, name, f"{error.strerror or error}{call}", _REMEDIES.get(error.errno or 0, ""))


_REMEDIES = {
    errno.EPERM: "allow the call: in a container --cap-add SYS_NICE or a seccomp profile that has it",
    errno.ENOSYS: "this kernel or its seccomp profile has no such call: run on a kernel with CONFIG_NUMA",
    errno.EINVAL: "the CPUs or nodes are outside the cpuset: compare `affinity show` with the placement",
}


@attrs.frozen
class Observed:
    """The kernel's own word. threads: each thread's CPUs. policy: of the calling thread, None where it could not
    be read (`unread` says why). resident: bytes of the process's own pages by node, None where unreadable."""

    threads: Mapping[int, CpuSet]
    caller: int
    policy: MemoryPolicy | None
    resident: Mapping[int, int] | None
    unread: tuple[Degradation, ...] = ()

    @classmethod
    def read(cls, kernel: Kernel) -> Observed:
        threads: dict[int, CpuSet] = {}
        for tid in kernel.threads():
            try:
                threads[tid] = kernel.get_affinity(tid)
            except ProcessLookupError:
                continue
        policy: MemoryPolicy | None = None
        resident: Mapping[int, int] | None = None
        unread = []
        try:
            policy = kernel.get_mempolicy()
        except OSError as refused:
            unread.append(Degradation.of("read back the memory policy", refused))
        try:
            resident = kernel.resident()
        except OSError as refused:  # a kernel without NUMA has no numa_maps: nothing to tell, nothing lost
            if refused.errno != errno.ENOENT:
                unread.append(Degradation.of("read where pages lie", refused))
        return cls(threads, kernel.thread_id(), policy, resident, tuple(unread))

    def shows(self, placement: Placement) -> bool:
        """Whether the calling thread is where the placement says."""
        return (placement.cpus is None or self.threads.get(self.caller) == placement.cpus) and (
            placement.memory is None or self.policy == placement.memory
        )

    def local_share(self, placement: Placement) -> float | None:
        """Share (0 to 1) of the process's own pages on the placement's nodes; None where unknown."""
        nodes = placement.memory.nodes if placement.memory and placement.memory.nodes else placement.nodes
        total = sum(self.resident.values()) if self.resident else 0
        return sum(self.resident.get(n, 0) for n in nodes) / total if self.resident and total else None


@attrs.frozen
class BindReport:
    """What `affinity.bind()` found and did.

    strategy, reason: which one acted and why it was chosen. requested: where the worker was to go; None where
    there was nowhere. observed: what the kernel shows now. already: it was in force before, nothing was done.
    degradations: what was given up, each with errno and remedy. satisfied: the kernel shows what was requested.
    outcome: threads and pages moved. age: seconds from the start of the process to the end of the bind.
    """

    strategy: str
    reason: str
    launch: Launch
    selection: Selection
    requested: Placement | None
    observed: Observed
    already: bool
    satisfied: bool
    degradations: tuple[Degradation, ...]
    outcome: Outcome
    age: float
    _undo: Callable[[], Observed] = attrs.field(repr=False, eq=False)

    @property
    def unbound_threads(self) -> int:
        """Threads whose CPUs are not within the placement's."""
        if self.requested is None or self.requested.cpus is None:
            return 0
        return sum(not mask <= self.requested.cpus for mask in self.observed.threads.values())

    @property
    def local_share(self) -> float | None:
        """Share (0 to 1) of the process's own pages on its nodes; None where unknown."""
        return self.observed.local_share(self.requested) if self.requested else None

    def undo(self) -> Observed:
        """Put every thread's mask and the calling thread's memory policy back; gives what is in force then.

        Must be called by the thread that bound. Pages stay where they are. Raises CannotBind where the kernel
        does not show the state before.
        """
        return self._undo()

    def __str__(self) -> str:
        lines = [f"strategy {self.strategy}: {self.reason}"]
        if self.requested is not None:
            lines.append(f"requested: {self.requested.reason}")
        mask = self.observed.threads.get(self.observed.caller)
        lines.append(f"in force: CPUs {mask}, memory policy {self.observed.policy or 'unknown'}")
        lines += [f"given up: {d}" for d in self.degradations]
        return "\n".join(lines)
