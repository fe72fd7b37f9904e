"""`LinuxKernel`: this process on the real kernel.

Sources: sched_setaffinity(2), set_mempolicy(2), get_mempolicy(2), migrate_pages(2), proc(5), numa(7),
Documentation/admin-guide/mm/numa_memory_policy.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence
from typing import NoReturn

from affinity.kernel.capability import SYS_NICE, capability_dropped
from affinity.kernel.mempolicy import MemoryMode, MemoryPolicy
from affinity.kernel.procfs import (
    anonymous_bytes,
    identity_text,
    mempolicy_of_maps,
    online_cpus,
    own_files,
    process_age,
)
from affinity.kernel.protocol import Process
from affinity.topology.cpuset import MAX_ID, CpuSet, NodeSet

_MODES = {
    MemoryMode.DEFAULT: 0,
    MemoryMode.PREFERRED: 1,
    MemoryMode.BIND: 2,
    MemoryMode.INTERLEAVE: 3,
    MemoryMode.LOCAL: 4,
    MemoryMode.PREFERRED_MANY: 5,
    MemoryMode.WEIGHTED_INTERLEAVE: 6,
}
_MODE_FLAGS = 0xE000  # MPOL_F_STATIC_NODES, MPOL_F_RELATIVE_NODES, MPOL_F_NUMA_BALANCING

# set_mempolicy, get_mempolicy, migrate_pages: from the kernel's own tables of each architecture.
_CALLS = {"x86_64": (238, 239, 256), "aarch64": (237, 236, 238), "ppc64le": (261, 260, 258)}

_NODE_BITS = 1024  # the largest CONFIG_NODES_SHIFT; the kernel refuses a shorter mask in get_mempolicy
_WORD = 8 * ctypes.sizeof(ctypes.c_ulong)


class LinuxKernel:
    """The real one. Reads nothing and loads nothing until it is asked."""

    def __init__(self) -> None:
        self._libc: ctypes.CDLL | None = None
        self._last_read_mask: tuple[set[int], CpuSet] = set(), CpuSet()
        self._last_set_mask: tuple[CpuSet | None, set[int]] = None, set()

    @property
    def environ(self) -> MutableMapping[str, str]:
        return os.environ

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
        return identity_text("/proc/self", os.getpid())

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
        from affinity.kernel.process import process_of

        return process_of(os.getppid())

    def threads(self) -> Sequence[int]:
        with own_files():
            return [int(name) for name in os.listdir("/proc/self/task")]

    def get_affinity(self, tid: int = 0) -> CpuSet:
        ids = os.sched_getaffinity(tid)
        last, cpus = self._last_read_mask
        if ids != last:  # the threads of a process mostly share a mask: it is made once
            cpus = CpuSet(ids)
            self._last_read_mask = ids, cpus
        return cpus

    def set_affinity(self, tid: int, cpus: CpuSet) -> None:
        last, ids = self._last_set_mask
        if cpus is not last:
            if not cpus:  # the kernel's EINVAL, said before Python builds a mask of no size
                raise OSError(errno.EINVAL, "an empty CPU mask")
            ids = set(cpus)
            self._last_set_mask = cpus, ids
        try:
            os.sched_setaffinity(tid, ids)
        except OSError as refused:  # Python does not say in which call
            raise OSError(refused.errno, refused.strerror, "sched_setaffinity") from None

    def online(self) -> CpuSet:
        return online_cpus()

    def allowed_nodes(self) -> NodeSet:
        with own_files(), open("/proc/thread-self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("Mems_allowed_list:"):
                    return NodeSet.parse(line.partition(":")[2])
        return NodeSet([0])  # a kernel without NUMA: one implicit node

    def get_mempolicy(self, tid: int = 0) -> MemoryPolicy:
        mode = ctypes.c_int()
        mask = (ctypes.c_ulong * (_NODE_BITS // _WORD))()
        bits, nothing = ctypes.c_ulong(_NODE_BITS), ctypes.c_ulong(0)
        try:
            self._syscall(1, "get_mempolicy", ctypes.byref(mode), mask, bits, None, nothing)
        except OSError:
            shown = mempolicy_of_maps()
            if shown is None:
                raise
            return shown
        number = mode.value & ~_MODE_FLAGS
        name = next((m for m, n in _MODES.items() if n == number), None)
        if name is None:
            raise OSError(errno.ENOSYS, f"memory policy {number} of a newer kernel than this package knows")
        nodes = NodeSet.from_bits(sum(word << (i * _WORD) for i, word in enumerate(mask)))
        if name is MemoryMode.PREFERRED and not nodes:
            name = MemoryMode.LOCAL  # the kernel keeps one as the other; set_mempolicy(2), MPOL_PREFERRED
        return MemoryPolicy(name, nodes)

    def set_mempolicy(self, policy: MemoryPolicy) -> None:
        if policy.nodes:
            mask, bits = _node_mask(policy.nodes)
            self._syscall(0, "set_mempolicy", ctypes.c_int(_MODES[policy.mode]), mask, bits)
        else:
            self._syscall(0, "set_mempolicy", ctypes.c_int(_MODES[policy.mode]), None, ctypes.c_ulong(0))

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
        old, bits = _node_mask(origin | target)  # one length for both; bits of target are cleared again
        for i in range(len(old)):
            old[i] = origin.bits >> (i * _WORD) & ~(~0 << _WORD)
        new = type(old)(*(target.bits >> (i * _WORD) & ~(~0 << _WORD) for i in range(len(old))))
        with capability_dropped(SYS_NICE):  # with it, pages of other processes that share them would be moved too
            return self._syscall(2, "migrate_pages", ctypes.c_int(0), bits, old, new)

    def resident_bytes(self) -> Mapping[int, int]:
        with own_files(), open("/proc/self/numa_maps", encoding="utf-8", errors="replace") as maps:
            return anonymous_bytes(maps)

    def age(self) -> float:
        with own_files():
            return process_age("/proc/self", time.clock_gettime(time.CLOCK_BOOTTIME))

    def check_command(self, argv: Sequence[str], timeout: float) -> str | None:
        from affinity.kernel.command import probe

        return probe(argv, timeout)

    def exec(self, argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execvpe(argv[0], list(argv), dict(environ))

    def _syscall(self, which: int, name: str, *args: object) -> int:
        machine = platform.machine() if sys.platform == "linux" else sys.platform
        if machine not in _CALLS:
            raise OSError(errno.ENOSYS, f"{name}: its number on {machine} is not known to this package")
        if self._libc is None:
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._libc.syscall.restype = ctypes.c_long
        answer = int(self._libc.syscall(ctypes.c_long(_CALLS[machine][which]), *args))
        if answer < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), name)
        return answer


def _node_mask(nodes: NodeSet) -> tuple[ctypes.Array[ctypes.c_ulong], ctypes.c_ulong]:
    """A node mask and its length in bits. The kernel drops the last bit it is told of: tell one more."""
    highest = max(nodes.bits.bit_length(), 1)
    assert highest <= MAX_ID
    count = -(-highest // _WORD)
    words = (ctypes.c_ulong * count)(*(nodes.bits >> (i * _WORD) & ~(~0 << _WORD) for i in range(count)))
    return words, ctypes.c_ulong(count * _WORD + 1)


#: This process's kernel. One object, so that what was remembered of a binding is found again.
THIS_PROCESS = LinuxKernel()
