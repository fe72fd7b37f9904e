"""Binding a process that already runs: every thread's mask, the memory policy, the pages touched before.

Public to strategies: `libnuma`, `inherit`, `numactl` and `legacy` differ only in what they use of it.
Sources: sched_setaffinity(2) and set_mempolicy(2) (both per thread), move_pages(2) (whole process).
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import attrs

from affinity.errors import BindError
from affinity.handoff import mask_lent, matching_record, process_mask
from affinity.host import Host
from affinity.kernel.mempolicy import MemoryMode, MemoryPolicy
from affinity.kernel.protocol import Kernel, Process, visible_threads
from affinity.observation import Observation
from affinity.policies.placement import Placement
from affinity.strategies.strategy import Outcome
from affinity.topology.cpuset import CpuSet

_log = logging.getLogger("affinity.strategies")

#: Held while this process is bound, and while a thread has a worker's placement: one must not take the other's masks.
binding_lock = threading.RLock()


def _forked() -> None:
    """Renew the lock: the thread that held it is not in the fork."""
    global binding_lock
    binding_lock = threading.RLock()


os.register_at_fork(after_in_child=_forked)


def bind_process(
    placement: Placement, host: Host, *, set_memory: Callable[[MemoryPolicy], None] | None = None
) -> Outcome:
    """Put this process, with every thread it has, on the placement.

    set_memory: how to set the calling thread's policy; the system call itself by default.
    Raises OSError (a refused call) or BindError; masks come first, so a failure there changes nothing else.
    """
    kernel = host.kernel
    outcome = bind_threads(placement.cpus, kernel) if placement.cpus is not None else Outcome()
    if placement.memory is not None:
        if set_memory is None or placement.memory.mode is MemoryMode.DEFAULT:  # for which libnuma has no call
            set_memory = kernel.set_mempolicy
        set_mempolicy_verified(placement.memory, kernel, set_memory)
    return migrate_to_placement(placement, host, outcome) if placement.migrate else outcome


def bind_threads(cpus: CpuSet, process: Process) -> Outcome:
    """Give the mask to the calling thread and to every thread that has the process's old mask.

    A thread with another mask was pinned by its owner, and is skipped. The kernel refuses to move some threads
    (io_uring's): an error of the outcome, and the others are bound. If /proc is of another PID namespace, the calling
    thread alone is bound. Raises OSError, with no thread changed, if the calling thread itself is refused.
    """
    me = process.thread_id()
    old = [process_mask(process)]  # a list: a mask met again is found by identity, unhashed
    known = matching_record(process)
    if known is not None:
        old.append(known.allowed)  # its CPUs are the process's mask
    skipped = 0

    def wanted(tid: int, mask: CpuSet) -> CpuSet:
        nonlocal skipped
        if tid == me or mask in old:
            return cpus
        skipped += mask != cpus
        return mask

    bound = process.get_affinity(me) != cpus
    if bound:
        process.set_affinity(me, cpus)
    changed, refused = change_masks(process, wanted)
    return Outcome(bound=bound + changed, skipped=skipped + len(refused), errors=refused)


#: Readings of the list of threads, of which a process that starts threads without end could ask for any number.
_MOST_PASSES = 500


def change_masks(process: Process, wanted: Callable[[int, CpuSet], CpuSet]) -> tuple[int, tuple[OSError, ...]]:
    """Give each thread the mask `wanted(tid, mask)`; return how many were changed, and the refusals.

    A thread not yet changed may start others meanwhile, so the list is read again until two in a row have no thread to
    change: one may lack a thread if others end while it is read.
    """
    changed = 0
    refused: list[OSError] = []
    seen: set[int] = set()
    quiet = 0
    for _ in range(_MOST_PASSES):
        new = [tid for tid in visible_threads(process) if tid not in seen]
        seen.update(new)
        quiet += 1
        for tid in new:
            try:
                mask = process.get_affinity(tid)
                cpus = wanted(tid, mask)
                if cpus != mask:
                    quiet = 0
                    process.set_affinity(tid, cpus)
                    changed += 1
            except ProcessLookupError:
                quiet = 0  # it ended between the listing and the call, and may have started another
            except OSError as error:
                refused.append(error)
        if quiet == 2 or (len(seen) == 1 and process.is_this_process):  # a thread that is alone starts none meanwhile
            break
    return changed, tuple(refused)


@contextmanager
def thread_placed(placement: Placement, kernel: Kernel) -> Iterator[None]:
    """Keep the calling thread on the placement within the block: a process started there inherits it.

    Raises OSError or BindError, with the thread as it was, if the placement is refused. Sources: sched_setaffinity(2),
    "inherited by a child"; set_mempolicy(2), NOTES.
    """
    with binding_lock, mask_lent(kernel):
        yield from _placed(placement, kernel)


def _placed(placement: Placement, kernel: Kernel) -> Iterator[None]:
    mask = kernel.get_affinity()
    policy = kernel.get_mempolicy() if placement.memory is not None else None
    try:
        if placement.cpus is not None and mask != placement.cpus:
            kernel.set_affinity(kernel.thread_id(), placement.cpus)
        if placement.memory is not None:
            set_mempolicy_verified(placement.memory, kernel, kernel.set_mempolicy)
        yield
    finally:  # each by itself, and only what has changed: a call that was refused above is refused here too
        _put_back("CPUs", mask, kernel.get_affinity, lambda: kernel.set_affinity(kernel.thread_id(), mask))
        if policy is not None:
            _put_back("memory policy", policy, kernel.get_mempolicy, partial(kernel.set_mempolicy, policy))


def _put_back(what: str, before: object, read: Callable[[], object], write: Callable[[], None]) -> None:
    """Restore one part of the calling thread's state. An error is a warning: a raised one would lose the worker."""
    try:
        if read() != before:
            write()
    except OSError as refused:
        _log.warning("affinity: a thread that started a worker does not have its %s %s back: %s", what, before, refused)


def set_mempolicy_verified(policy: MemoryPolicy, kernel: Kernel, set_memory: Callable[[MemoryPolicy], None]) -> None:
    """Set the calling thread's memory policy and read it back.

    libnuma reports no error, and the kernel cuts a node mask without one.

    Raises OSError (refused) or BindError (cut), and then leaves the policy as it was.
    """
    before = _policy(kernel)
    set_memory(policy)
    found = _policy(kernel)
    if found == policy:
        return
    kernel.set_mempolicy(policy)  # the bare call: where libnuma failed without a word, it has the errno
    found = _policy(kernel)
    if found not in (policy, None):  # None: it cannot be read, which the report has
        if before is not None:
            kernel.set_mempolicy(before)
        raise BindError(f"memory policy {policy} was asked for, the kernel made it {found}: nodes outside the cpuset?")


def _policy(kernel: Kernel) -> MemoryPolicy | None:
    try:
        return kernel.get_mempolicy()
    except OSError:
        return None


def bind_from_outside(placement: Placement, observation: Observation) -> Outcome:
    """Put another process that runs, with every thread it has, on the placement (launch mode `attach`).

    Its new pages follow its CPUs if it has set no memory policy: only the process itself can set one. So `preferred`
    and `local` are in force without a call, and other modes raise BindError. Other errors as `bind_process`.
    """
    memory = placement.memory
    if memory is not None and memory.mode not in _FOLLOW_CPUS:
        raise BindError(
            f"memory policy {memory} of another process cannot be set (set_mempolicy(2) is for the calling thread): "
            "start it through `affinity run`, or give its control group a cpuset with these nodes"
        )
    process = observation.process
    outcome = bind_threads(placement.cpus, process) if placement.cpus is not None else Outcome()
    return migrate_to_placement(placement, observation.host, outcome, process) if placement.migrate else outcome


_FOLLOW_CPUS = (MemoryMode.PREFERRED, MemoryMode.PREFERRED_MANY, MemoryMode.LOCAL)


def migrate_to_placement(placement: Placement, host: Host, outcome: Outcome, process: Process | None = None) -> Outcome:
    """Move the pages that lie elsewhere to the placement's memory nodes; a refusal is in the outcome, not raised.

    process: whose pages; default: this one's.
    """
    process = process or host.kernel
    policy = placement.memory
    if policy is None or policy.mode in (MemoryMode.INTERLEAVE, MemoryMode.DEFAULT):
        return outcome
    target = policy.nodes or (placement.nodes & host.topology.memory_nodes & host.allowed_nodes)
    # What lies on a node without CPUs (a GPU's memory, an expander) was put there by name, and stays.
    elsewhere = (host.topology.memory_nodes & host.topology.cpu_nodes & host.allowed_nodes) - target
    if not target or not elsewhere:
        return outcome
    before, left = None, 0
    with suppress(OSError):  # a sample that is not possible keeps no page from its node; the report states why
        before = process.resident_bytes()
    start = time.perf_counter()
    try:
        left = process.migrate_pages(elsewhere, target)
    except OSError as refused:
        outcome = attrs.evolve(outcome, errors=(*outcome.errors, refused))
        if refused.errno != errno.ENOMEM:  # a node that became full: until then, pages were moved
            return outcome
    seconds = time.perf_counter() - start
    return attrs.evolve(outcome, resident_before=before, unmoved=left * mmap.PAGESIZE, seconds=seconds)
