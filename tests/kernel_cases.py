"""The same calls on Linux and on the simulation: each case gives what the kernel answered, as text.

`python tests/kernel_cases.py FREE|CONFINED` runs every case on Linux, each in a forked child, and prints JSON. Confined
is a cpuset control group with the first CPU and the first memory node. Exit status 77: no such group can be made.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import platform
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from affinity import CpuSet, Host, NodeSet
from affinity.kernel import Kernel, MemoryMode, MemoryPolicy
from affinity.kernel.linux import THIS_PROCESS
from affinity.testing import SimulatedKernel
from affinity.topology import Topology

SIZE = 2 << 20


class Process(Protocol):
    """A process whose kernel is the real one or the simulated one."""

    kernel: Kernel

    def start_thread(self) -> int: ...
    def in_thread(self, tid: int, act: Callable[[], str]) -> str: ...
    def child(self) -> str: ...
    def touch(self, size: int) -> None: ...
    def places(self) -> Mapping[int, int]: ...


class RealProcess:
    """This very process. Cases run in a forked child of it."""

    def __init__(self) -> None:
        self.kernel = THIS_PROCESS
        self._threads: dict[int, tuple[queue.Queue[Callable[[], str]], queue.Queue[str]]] = {}
        self._kept: list[mmap.mmap] = []

    def start_thread(self) -> int:
        orders: queue.Queue[Callable[[], str]] = queue.Queue()
        answers: queue.Queue[str] = queue.Queue()

        def serve() -> None:
            while True:
                answers.put(orders.get()())

        threading.Thread(target=serve, daemon=True).start()
        orders.put(lambda: str(threading.get_native_id()))
        tid = int(answers.get())
        self._threads[tid] = orders, answers
        return tid

    def in_thread(self, tid: int, act: Callable[[], str]) -> str:
        orders, answers = self._threads[tid]
        orders.put(act)
        return answers.get()

    def child(self) -> str:
        return forked(lambda: state(self.kernel))

    def touch(self, size: int) -> None:
        block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block.madvise(mmap.MADV_NOHUGEPAGE)  # else policies deal out two megabytes at a time
        for offset in range(0, size, mmap.PAGESIZE):
            block[offset] = 1
        self._kept.append(block)

    def places(self) -> dict[int, int]:
        """Asked page by page, with move_pages(2): the interpreter's own pages are not counted."""
        libc = ctypes.CDLL(None, use_errno=True)
        number = {"x86_64": 279, "aarch64": 239, "ppc64le": 301}[platform.machine()]
        found: dict[int, int] = {}
        for block in self._kept:
            first = ctypes.addressof(ctypes.c_char.from_buffer(block))
            count = len(block) // mmap.PAGESIZE
            pages = (ctypes.c_void_p * count)(*range(first, first + len(block), mmap.PAGESIZE))
            nodes = (ctypes.c_int * count)()
            answer = libc.syscall(ctypes.c_long(number), 0, ctypes.c_ulong(count), pages, None, nodes, 0)
            assert answer == 0, os.strerror(ctypes.get_errno())
            for node in nodes:
                found[node] = found.get(node, 0) + mmap.PAGESIZE
        return found


class SimulatedProcess:
    """The same on a simulation."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        self.kernel = kernel

    def start_thread(self) -> int:
        return self.kernel.start_thread()

    def in_thread(self, tid: int, act: Callable[[], str]) -> str:
        with self.kernel.acting_as(tid):
            return act()

    def child(self) -> str:
        return state(self.kernel.spawn(["true"]))

    def touch(self, size: int) -> None:
        self.kernel.touch(size)

    def places(self) -> Mapping[int, int]:
        return self.kernel.pages_by_node


def state(kernel: Kernel) -> str:
    return f"CPUs {kernel.get_affinity()}, policy {kernel.get_mempolicy()}"


def reported(act: Callable[[], object], then: Callable[[], object] = lambda: "") -> str:
    """The errno's name where `act` is refused, else what `then` gives."""
    try:
        act()
    except OSError as refused:
        return errno.errorcode[refused.errno or 0]
    return str(then())


class Facts:
    """The ids that cases use: of the whole machine, whatever this process may use of it."""

    def __init__(self, topology: Topology) -> None:
        self.cpus = topology.online
        self.first = CpuSet([self.cpus.first()])
        self.last = CpuSet([max(self.cpus)])
        self.no_cpu = CpuSet([max(self.cpus) + 40])
        self.nodes = topology.memory_nodes
        self.near, self.far = NodeSet([self.nodes.first()]), NodeSet([max(self.nodes)])
        self.no_node = NodeSet([max(topology.by_id) + 1])
        self.missing_memory_reason = NodeSet(topology.by_id) - self.nodes
        self.each_node_cpu = [CpuSet([n.cpus.first()]) for n in topology.nodes if n.cpus]


Case = Callable[[Process, Facts], str]


def cases(facts: Facts) -> dict[str, Case]:
    """Every case by name."""
    found: dict[str, Case] = {
        "as it begins": lambda p, f: state(p.kernel),
        "an empty mask": lambda p, f: reported(lambda: p.kernel.set_affinity(0, CpuSet())),
        "a thread that is not there": lambda p, f: reported(lambda: p.kernel.get_affinity(1 << 22)),
        "set a thread that is not there": lambda p, f: reported(lambda: p.kernel.set_affinity(1 << 22, f.first)),
        "a thread inherits": _thread_inherits,
        "a child inherits": _child_inherits,
        "a thread's policy is its own": _thread_is_its_own,
        "another thread's mask": _other_mask,
    }
    masks = {"first": facts.first, "last": facts.last, "all": facts.cpus, "none": facts.no_cpu}
    masks |= {"first and none": facts.first | facts.no_cpu, "last and none": facts.last | facts.no_cpu}
    for name, cpus in masks.items():
        found[f"mask {name}"] = lambda p, f, c=cpus: reported(
            lambda: p.kernel.set_affinity(0, c), lambda: p.kernel.get_affinity()
        )
        found[f"mask first, then {name}"] = lambda p, f, c=cpus: reported(
            lambda: (p.kernel.set_affinity(0, f.first), p.kernel.set_affinity(0, c)), lambda: p.kernel.get_affinity()
        )
    nodes = {"nothing": NodeSet(), "near": facts.near, "far": facts.far, "all": facts.nodes, "absent": facts.no_node}
    nodes |= {"far and absent": facts.far | facts.no_node, "near and absent": facts.near | facts.no_node}
    nodes |= {"memory-less": facts.missing_memory_reason} if facts.missing_memory_reason else {}
    for mode in MemoryMode:
        for name, which in nodes.items():
            policy = MemoryPolicy(mode, which)
            found[f"policy {mode.value} of {name}"] = lambda p, f, q=policy: reported(
                lambda: p.kernel.set_mempolicy(q), lambda: p.kernel.get_mempolicy()
            )
            if mode in (MemoryMode.PREFERRED, MemoryMode.INTERLEAVE, MemoryMode.BIND):
                found[f"pages under {mode.value} of {name}"] = lambda p, f, q=policy: _touched(p, f, q)
    for i, cpu in enumerate(facts.each_node_cpu):
        found[f"pages of a thread on node number {i}"] = lambda p, f, c=cpu: reported(
            lambda: p.kernel.set_affinity(0, c), lambda: _touched(p, f, MemoryPolicy())
        )
    for old_name, old in nodes.items():
        for new_name, new in nodes.items():
            found[f"{old_name} moved to {new_name}"] = lambda p, f, o=old, n=new: _moved(p, f, o, n)
    return found


def _thread_inherits(p: Process, f: Facts) -> str:
    p.kernel.set_affinity(0, f.first)
    p.kernel.set_mempolicy(MemoryPolicy(MemoryMode.BIND, f.near))
    tid = p.start_thread()
    return p.in_thread(tid, lambda: state(p.kernel)) + f"; from outside {p.kernel.get_affinity(tid)}"


def _child_inherits(p: Process, f: Facts) -> str:
    p.kernel.set_affinity(0, f.first)
    p.kernel.set_mempolicy(MemoryPolicy(MemoryMode.BIND, f.near))
    return p.child()


def _thread_is_its_own(p: Process, f: Facts) -> str:
    tid = p.start_thread()

    def act() -> str:
        p.kernel.set_mempolicy(MemoryPolicy(MemoryMode.LOCAL))
        p.kernel.set_affinity(0, f.first)
        return state(p.kernel)

    return f"{p.in_thread(tid, act)}; the main thread {state(p.kernel)}"


def _other_mask(p: Process, f: Facts) -> str:
    tid = p.start_thread()
    p.kernel.set_affinity(tid, f.first)
    return f"{p.in_thread(tid, lambda: state(p.kernel))}; the main thread {state(p.kernel)}"


def _touched(p: Process, f: Facts, policy: MemoryPolicy) -> str:
    """Where new pages of a thread on the first node went."""
    if policy != MemoryPolicy():
        p.kernel.set_affinity(0, f.first)
    return reported(lambda: (p.kernel.set_mempolicy(policy), p.touch(SIZE)), lambda: _eighths(p))


def _moved(p: Process, f: Facts, old: NodeSet, new: NodeSet) -> str:
    """Where pages that lay on the far node (if it can be had) are after a move."""
    reported(lambda: p.kernel.set_mempolicy(MemoryPolicy(MemoryMode.PREFERRED, f.far)))
    p.touch(SIZE)
    return reported(lambda: p.kernel.migrate_pages(old, new), lambda: _eighths(p))


def _eighths(p: Process) -> str:
    """Eighths of SIZE on each node: a handful of pages may be elsewhere."""
    shares = {node: round(size / SIZE * 8) for node, size in sorted(p.places().items())}
    return str({node: share for node, share in shares.items() if share})


def forked(act: Callable[[], str]) -> str:
    """What `act` gives in a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.write(write, act().encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as answer:
        text = answer.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"a case ended without an answer after {text!r}")
    return text


def on_linux(topology: Topology) -> dict[str, str]:
    facts = Facts(topology)
    return {name: forked(lambda c=case: c(RealProcess(), facts)) for name, case in cases(facts).items()}


def simulated(topology: Topology, make: Callable[[], SimulatedKernel]) -> dict[str, str]:
    facts = Facts(topology)
    return {name: case(SimulatedProcess(make()), facts) for name, case in cases(facts).items()}


@contextlib.contextmanager
def confined(cpus: CpuSet, nodes: NodeSet) -> Iterator[None]:
    """This process in a cpuset of its own, version 1 or 2. Raises OSError where none can be made."""
    version_1 = Path("/sys/fs/cgroup/cpuset/tasks")
    base = Path("/sys/fs/cgroup/cpuset" if version_1.exists() else "/sys/fs/cgroup")
    if not version_1.exists() and "cpuset" not in (base / "cgroup.subtree_control").read_text():
        raise OSError(errno.ENOTSUP, "no cpuset controller")
    group = base / f"affinity-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpuset.cpus").write_text(str(cpus))
        (group / "cpuset.mems").write_text(str(nodes))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (base / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def main(arguments: Sequence[str]) -> int:
    host = Host.live()
    answers: dict[str, Any]
    if arguments == ["CONFINED"]:
        cpus, nodes = CpuSet([host.allowed_cpus.first()]), NodeSet([host.allowed_nodes.first()])
        try:
            with confined(cpus, nodes):
                answers = on_linux(host.topology)
        except OSError as refused:
            print(f"no cpuset can be made: {refused}", file=sys.stderr)
            return 77
    else:
        answers = on_linux(host.topology)
    json.dump(answers, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
