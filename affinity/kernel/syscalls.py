"""System calls on a thread or process, by id: what `LinuxKernel` and `LinuxProcess` share.

Sources: sched_setaffinity(2), set_mempolicy(2), get_mempolicy(2), move_pages(2).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Sequence

from affinity.kernel.mempolicy import MemoryFlag, MemoryMode, MemoryPolicy
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
_FLAGS = {MemoryFlag.STATIC_NODES: 0x8000, MemoryFlag.RELATIVE_NODES: 0x4000, MemoryFlag.NUMA_BALANCING: 0x2000}

# Numbers from the kernel's own tables of each architecture.
_NUMBERS = {
    "x86_64": {"set_mempolicy": 238, "get_mempolicy": 239, "move_pages": 279},
    "aarch64": {"set_mempolicy": 237, "get_mempolicy": 236, "move_pages": 239},
    "ppc64le": {"set_mempolicy": 261, "get_mempolicy": 260, "move_pages": 301},
}

_NODE_BITS = 1024  # the largest CONFIG_NODES_SHIFT; the kernel refuses a shorter mask in get_mempolicy
_WORD = 8 * ctypes.sizeof(ctypes.c_ulong)

# The threads of a process mostly share a mask: the last one is converted once.
_last_read: tuple[set[int], CpuSet] = set(), CpuSet()
_last_set: tuple[CpuSet, set[int]] = CpuSet(), set()


def get_affinity(tid: int) -> CpuSet:
    """Return the CPUs of a thread, 0 for the calling one."""
    global _last_read
    ids = os.sched_getaffinity(tid)
    last, cpus = _last_read
    if ids != last:
        cpus = CpuSet(ids)
        _last_read = ids, cpus
    return cpus


def set_affinity(tid: int, cpus: CpuSet) -> None:
    """Set the CPUs of a thread, 0 for the calling one."""
    global _last_set
    last, ids = _last_set
    if cpus is not last:
        if not cpus:  # the kernel's EINVAL, before Python builds a mask of no size
            raise OSError(errno.EINVAL, "an empty CPU mask", "sched_setaffinity")
        ids = set(cpus)
        _last_set = cpus, ids
    try:
        os.sched_setaffinity(tid, ids)
    except OSError as refused:  # Python does not name the call
        raise OSError(refused.errno, refused.strerror, "sched_setaffinity") from None


def get_mempolicy() -> MemoryPolicy:
    """Return the memory policy of the calling thread."""
    mode = ctypes.c_int()
    mask = (ctypes.c_ulong * (_NODE_BITS // _WORD))()
    _call("get_mempolicy", ctypes.byref(mode), mask, ctypes.c_ulong(_NODE_BITS), None, ctypes.c_ulong(0))
    flags = frozenset(flag for flag, bit in _FLAGS.items() if mode.value & bit)
    number = mode.value & ~sum(_FLAGS.values())
    name = next((m for m, n in _MODES.items() if n == number), None)
    if name is None:
        raise OSError(errno.ENOSYS, f"memory policy {number} of a newer kernel than this package supports")
    nodes = NodeSet.from_bits(sum(word << (i * _WORD) for i, word in enumerate(mask)))
    if name is MemoryMode.PREFERRED and not nodes:
        name = MemoryMode.LOCAL  # the kernel keeps one as the other; set_mempolicy(2), MPOL_PREFERRED
    return MemoryPolicy(name, nodes, flags)


def set_mempolicy(policy: MemoryPolicy) -> None:
    """Set the memory policy of the calling thread."""
    mask, bits = _node_mask(policy.nodes) if policy.nodes else (None, ctypes.c_ulong(0))
    mode = _MODES[policy.mode] | sum(_FLAGS[flag] for flag in policy.flags)
    _call("set_mempolicy", ctypes.c_int(mode), mask, bits)


def page_nodes(pid: int, addresses: Sequence[int]) -> list[int]:
    """Return the node of the page at each address of a process, 0 for the calling one; below 0 if there is none."""
    nodes = (ctypes.c_int * len(addresses))()
    _move_pages(pid, addresses, None, nodes)
    return list(nodes)


def move_pages(pid: int, addresses: Sequence[int], node: int) -> int:
    """Move pages of a process, 0 for the calling one, to a node; return how many of those tried were not moved.

    A page that another process maps too is never moved. The call may end at the first page that cannot be moved.
    """
    nodes = (ctypes.c_int * len(addresses))(*[node] * len(addresses))
    return _move_pages(pid, addresses, nodes, (ctypes.c_int * len(addresses))())


class _Bytes(ctypes.Structure):
    """struct iovec, readv(2)."""

    _fields_ = (("address", ctypes.c_void_p), ("size", ctypes.c_size_t))


_MOST_BYTES = 1024  # IOV_MAX


def touch_pages(pid: int, addresses: Sequence[int]) -> None:
    """Read a byte at each address of a process, as the process itself would; an address without a page is passed over.

    Raises OSError if the process may not be read. Source: process_vm_readv(2).
    """
    while addresses:
        some, addresses = addresses[:_MOST_BYTES], addresses[_MOST_BYTES:]
        there = (_Bytes * len(some))(*[_Bytes(address, 1) for address in some])
        here = (ctypes.c_char * len(some))()
        local, count = _Bytes(ctypes.addressof(here), len(some)), ctypes.c_ulong(len(some))
        done = _libc().process_vm_readv(pid or os.getpid(), ctypes.byref(local), 1, there, count, ctypes.c_ulong(0))
        if done < 0 and ctypes.get_errno() != errno.EFAULT:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "process_vm_readv")
        if done < len(some):  # it ends at the first address that cannot be read
            addresses = [*some[max(done, 0) + 1 :], *addresses]


_MPOL_MF_MOVE = 2  # pages of this process alone; include/uapi/linux/mempolicy.h


def _move_pages(
    pid: int, addresses: Sequence[int], nodes: ctypes.Array[ctypes.c_int] | None, status: ctypes.Array[ctypes.c_int]
) -> int:
    count = len(addresses)
    pages = (ctypes.c_void_p * count)(*addresses)
    flags = ctypes.c_int(_MPOL_MF_MOVE if nodes is not None else 0)
    return _call("move_pages", ctypes.c_int(pid), ctypes.c_ulong(count), pages, nodes, status, flags)


def _call(name: str, *args: object) -> int:
    machine = os.uname().machine  # as `platform` has it, whose import costs more than the call
    if machine not in _NUMBERS:
        raise OSError(errno.ENOSYS, f"{name}: its number on {machine} is not known to this package")
    result = int(_libc().syscall(ctypes.c_long(_NUMBERS[machine][name]), *args))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _node_mask(nodes: NodeSet) -> tuple[ctypes.Array[ctypes.c_ulong], ctypes.c_ulong]:
    """Return a node mask and its length in bits. The kernel drops the last bit of that length: add one."""
    highest = max(nodes.bits.bit_length(), 1)
    assert highest <= MAX_ID
    count = -(-highest // _WORD)
    words = (ctypes.c_ulong * count)(*(nodes.bits >> (i * _WORD) & ~(~0 << _WORD) for i in range(count)))
    return words, ctypes.c_ulong(count * _WORD + 1)
