"""`SimulatedKernel`: the `Kernel` of a machine that is not here, with the rules of Linux.

Sources: sched_setaffinity(2), set_mempolicy(2), move_pages(2), cpuset(7), and the kernel's mm/mempolicy.c and
kernel/sched/syscalls.c for what they leave open: what lies outside the cpuset is cut silently, and only what is
wholly outside is refused. `tests/test_fakehost.py` runs the same calls on Linux and here.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from typing import ClassVar, NoReturn, TypeVar

import attrs

from affinity import BindError, CpuSet, NodeSet
from affinity.handoff import VARIABLE
from affinity.kernel import MemoryMode, MemoryPolicy, Process, ResidentBytes
from affinity.kernel.migration import destinations
from affinity.kernel.procfs import require_move_target
from affinity.testing import programs
from affinity.topology import Topology
from affinity.topology.cpuset import cpu_set, node_set

T = TypeVar("T")

PAGE = 4096

#: Calls that `refuse` takes.
REFUSABLE = frozenset(
    {
        "threads",
        "get_affinity",
        "set_affinity",
        "allowed_nodes",
        "get_mempolicy",
        "set_mempolicy",
        "migrate_pages",
        "resident",
        "exec",
    }
)

#: Calls whose errors name a system call or a file on Linux.
_SYSCALLS = {
    "set_affinity": "sched_setaffinity",
    "get_affinity": "sched_getaffinity",
    "migrate_pages": "move_pages",
    "threads": "/proc/self/task",
    "allowed_nodes": "/proc/self/status",
    "resident": "/proc/self/numa_maps",
}

#: Calls that change something; `SimulatedKernel.changes` shows these alone.
CHANGING = frozenset({"set_affinity", "set_mempolicy", "migrate_pages", "exec"})


@attrs.frozen
class Call:
    """One call: its name, the process and thread that made it, its arguments, and its errno (0: it succeeded)."""

    name: str
    process: int
    thread: int
    arguments: tuple[object, ...]
    errno: int = 0


class Executed(BaseException):
    """What `exec` raises: the process is now this command. No `except Exception` may outlive an exec.

    argv: the innermost command, behind numactl and taskset. environ: its environment. kernel: the process as the
    command finds it. failure: the last message of a wrapping program that failed, so that nothing was executed, or "".
    """

    def __init__(
        self, argv: Sequence[str], environ: Mapping[str, str], kernel: SimulatedKernel, failure: str = ""
    ) -> None:
        super().__init__(failure or " ".join(argv))
        self.argv, self.environ, self.kernel, self.failure = list(argv), dict(environ), kernel, failure


@attrs.define
class _Thread:
    mask: CpuSet
    policy: MemoryPolicy
    cpu: int  # the one it runs on
    turn: int = 0  # interleave: pages placed so far


@attrs.define
class _Machine:
    """What all processes of one simulated machine share."""

    topology: Topology
    cpuset: CpuSet
    mems: NodeSet
    libnuma: str
    modes: frozenset[MemoryMode]
    resets_masks: bool
    free: dict[int, int]  # pages
    log: list[Call] = attrs.field(factory=list)
    refusals: dict[str, tuple[int, Callable[..., bool]]] = attrs.field(factory=dict)
    last_id: int = 1000
    processes: dict[int, SimulatedKernel] = attrs.field(factory=dict)  # by PID, those that run
    lock: threading.RLock = attrs.field(factory=threading.RLock)


class SimulatedKernel:
    """One process on a simulated machine, found by its PID. Implements `affinity.kernel.Kernel`.

    topology: the machine, of any origin. cpuset, mems: what the container leaves (default: all that is online).
    mask: the first thread's CPUs, as `taskset` sets them (default: the cpuset); unlike the cpuset, a thread may widen
    it. environ, xoptions: the process's. libnuma: why it cannot be used, "" where it can. modes: memory policies this
    kernel supports (one before Linux 5.15 has no preferred-many). resets_masks: whether a changed cpuset resets the
    masks in it, as before Linux 6.2, see `narrow`. free: bytes free on each node (default: all of its memory).
    seconds: the process's age. Its `user` (an id) and `argv` may be set.

    Every Python thread acts as the main thread, unless it is inside `acting_as`.
    """

    #: The process whose environment is `os.environ`.
    _in_os: ClassVar[SimulatedKernel | None] = None

    def __init__(
        self,
        topology: Topology,
        *,
        cpuset: CpuSet | str | None = None,
        mems: NodeSet | str | None = None,
        mask: CpuSet | str | None = None,
        environ: Mapping[str, str] | None = None,
        xoptions: Mapping[str, str | bool] | None = None,
        libnuma: str = "",
        modes: Iterable[MemoryMode] = MemoryMode,
        resets_masks: bool = False,
        free: Mapping[int, int] | None = None,
        seconds: float = 1.0,
    ) -> None:
        memory = dict(topology.memory) if free is None else dict(free)
        cpus = topology.online if cpuset is None else cpu_set(cpuset) & topology.online
        nodes = topology.memory_nodes if mems is None else node_set(mems) & topology.memory_nodes
        start = cpus if mask is None else cpu_set(mask) & cpus
        if not start or not nodes:
            raise ValueError(f"a process needs a CPU and a memory node: CPUs {start}, nodes {nodes} are left")
        self._machine = _Machine(
            topology=topology,
            cpuset=cpus,
            mems=nodes,
            libnuma=libnuma,
            modes=frozenset(modes),
            resets_masks=resets_masks,
            free={n: memory.get(n, 0) // PAGE for n in topology.memory_nodes},
        )
        self._begin(_Thread(start, MemoryPolicy(), start.first()), environ or {}, xoptions or {})
        self.seconds = seconds

    def _begin(
        self,
        first: _Thread,
        environ: Mapping[str, str],
        xoptions: Mapping[str, str | bool],
        *,
        pid: int = 0,
        parent: int = 0,
    ) -> None:
        self._machine.last_id += not pid
        self._id = pid or self._machine.last_id
        self._parent = parent
        self._cgroup = "/"
        self._machine.processes[self._id] = self
        self._threads = {self._id: first}
        self._pages: dict[int, int] = {}
        self._environ: MutableMapping[str, str] = dict(environ)
        self._xoptions = dict(xoptions)
        self.user, self.argv = 0, ["simulated"]
        self._acting = threading.local()

    # ------------------------------------------------------------ what a test arranges and looks at

    @property
    def topology(self) -> Topology:
        return self._machine.topology

    @property
    def cpuset(self) -> CpuSet:
        return self._machine.cpuset

    @property
    def allowed_memory(self) -> NodeSet:
        return self._machine.mems

    @property
    def log(self) -> Sequence[Call]:
        """Every call of every process of this machine, in order."""
        return tuple(self._machine.log)

    @property
    def changes(self) -> Sequence[Call]:
        """The calls of `log` that change something, refused ones too."""
        return tuple(call for call in self._machine.log if call.name in CHANGING)

    @property
    def masks(self) -> Mapping[int, CpuSet]:
        """Each thread's CPUs; looking here is no call and leaves no trace in `log`, as with the next two."""
        return {tid: thread.mask for tid, thread in self._threads.items()}

    @property
    def policies(self) -> Mapping[int, MemoryPolicy]:
        """Each thread's memory policy."""
        return {tid: thread.policy for tid, thread in self._threads.items()}

    @property
    def pages_by_node(self) -> Mapping[int, int]:
        """Bytes of this process's pages by node."""
        return {node: pages * PAGE for node, pages in sorted(self._pages.items()) if pages}

    def refuse(self, call: str, number: int, *, when: Callable[..., bool] = lambda *_: True) -> None:
        """From now on this call fails with this errno, if `when(*arguments)` is true.

        Raises ValueError for a call that `affinity.kernel.Kernel` lacks: a test that refuses nothing proves nothing.
        """
        if call not in REFUSABLE:
            raise ValueError(f"{call!r} cannot be refused: expected one of {', '.join(sorted(REFUSABLE))}")
        self._machine.refusals[call] = (number, when)

    def permit(self, call: str) -> None:
        """End a `refuse`."""
        self._machine.refusals.pop(call, None)

    def narrow(
        self,
        *,
        cpuset: CpuSet | str | None = None,
        mems: NodeSet | str | None = None,
        offline: CpuSet | str | None = None,
    ) -> None:
        """Narrow the container, or take CPUs offline, while this process runs.

        The masks of its threads are cut with it. Before Linux 6.2 (`resets_masks`) a cpuset that changes gives each
        thread all of its CPUs instead, whatever was set; a CPU that goes offline is cut on every kernel. A thread that
        loses all its CPUs may use all that are left. Memory policies stay as set. Sources: cpuset(7); commit
        8f9ea86fdf99 ("sched: Always preserve the user requested cpumask").
        """
        machine = self._machine
        with machine.lock:
            before = machine.cpuset
            machine.cpuset = before if cpuset is None else before & cpu_set(cpuset)
            reset = machine.resets_masks and machine.cpuset != before
            machine.cpuset = machine.cpuset if offline is None else machine.cpuset - cpu_set(offline)
            machine.mems = machine.mems if mems is None else machine.mems & node_set(mems)
            if not machine.cpuset or not machine.mems:
                raise ValueError("a machine without a CPU or without a memory node runs nothing")
            for thread in self._threads.values():
                thread.mask = machine.cpuset if reset else (thread.mask & machine.cpuset) or machine.cpuset
                thread.cpu = thread.cpu if thread.cpu in thread.mask else thread.mask.first()

    def start_thread(self) -> int:
        """A new thread, with the calling thread's mask and policy; gives its id."""
        with self._machine.lock:
            self._machine.last_id += 1
            self._threads[self._machine.last_id] = attrs.evolve(self._me())
            return self._machine.last_id

    def end_thread(self, tid: int) -> None:
        """A thread ends: calls that name it fail with ESRCH."""
        if tid == self._id:
            raise ValueError("the main thread ends with its process")
        del self._threads[tid]

    def end(self) -> None:
        """End the process: its memory is free again, and a call on it fails with ESRCH."""
        with self._machine.lock:
            self._free_pages()
            self._threads = {}
            del self._machine.processes[self._id]

    @contextmanager
    def acting_as(self, tid: int) -> Iterator[None]:
        """Within the block, the calling Python thread is this simulated thread."""
        before = getattr(self._acting, "tid", self._id)
        self._thread(tid)
        self._acting.tid = tid
        try:
            yield
        finally:
            self._acting.tid = before

    @contextmanager
    def environ_in_os(self) -> Iterator[None]:
        """Within the block its environment is `os.environ`, with its own variables in it; after it both are apart.

        `AFFINITY_BOUND` of the process that runs the test is not there. At the end `os.environ` is as it was before.
        """
        before, outer = dict(os.environ), SimulatedKernel._in_os
        if outer is not None:
            outer._environ = before
        os.environ.pop(VARIABLE, None)
        os.environ.update(self._environ)
        self._environ, SimulatedKernel._in_os = os.environ, self
        try:
            yield
        finally:
            self._environ, SimulatedKernel._in_os = dict(os.environ), outer
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update({name: text for name, text in before.items() if os.environ.get(name) != text})
            if outer is not None:
                outer._environ = os.environ

    def spawn(self, argv: Sequence[str]) -> SimulatedKernel:
        """A child process that executes `argv`: it inherits the calling thread's mask and policy, no pages.

        `numactl` and `taskset` at the front act on it; a Python interpreter's `-X` options become its `xoptions`.
        Raises affinity.testing.programs.Failed where such a program fails.
        """
        with self._machine.lock:
            child = object.__new__(SimulatedKernel)
            child._machine, child.seconds = self._machine, 0.0
            child._begin(attrs.evolve(self._me()), self._environ, {}, parent=self._id)
        try:
            inner = programs.run(argv, child)
            child._xoptions, child.argv = programs.xoptions(inner), list(inner)
        except programs.CommandFailed:
            child.end()
            raise
        return child

    def touch(self, size: int) -> None:
        """Write to `size` bytes of new memory in the calling thread: its pages go where Linux would put them.

        Raises MemoryError where its policy leaves no node with free memory: Linux's out-of-memory killer ends
        the process then.
        """
        with self._machine.lock:
            left = -(-size // PAGE)
            me = self._me()
            if me.policy.mode in (MemoryMode.INTERLEAVE, MemoryMode.WEIGHTED_INTERLEAVE):
                left -= self._interleave(me, left)
            for node in self._preference(me):
                left -= self._take(node, left)
            if left:
                raise MemoryError(f"policy {me.policy}: no free page for {left * PAGE} bytes on the nodes it allows")

    def _interleave(self, me: _Thread, pages: int) -> int:
        """Deal pages to the policy's nodes in turn; gives how many found a place."""
        nodes = list(me.policy.nodes)
        shares = [pages // len(nodes) + ((i - me.turn) % len(nodes) < pages % len(nodes)) for i in range(len(nodes))]
        me.turn += pages
        return sum(self._take(node, share) for node, share in zip(nodes, shares, strict=True))

    def _take(self, node: int, pages: int) -> int:
        got = min(pages, self._machine.free[node])
        self._machine.free[node] -= got
        if got:
            self._pages[node] = self._pages.get(node, 0) + got
        return got

    def _free_pages(self) -> None:
        for node, pages in self._pages.items():
            self._machine.free[node] += pages
        self._pages = {}

    def _preference(self, me: _Thread) -> Sequence[int]:
        """The nodes a page of this thread may come from, best first."""
        topology, mems = self._machine.topology, self._machine.mems
        here = topology.nodes_of(CpuSet([me.cpu])).first()
        near = _by_distance(topology, here, mems)
        match me.policy.mode:
            case MemoryMode.BIND:
                return [n for n in near if n in me.policy.nodes]
            case MemoryMode.PREFERRED:
                return _by_distance(topology, me.policy.nodes.first(), mems)
            case MemoryMode.PREFERRED_MANY:
                return [n for n in near if n in me.policy.nodes] + [n for n in near if n not in me.policy.nodes]
            case _:
                return near

    # ------------------------------------------------------------ affinity.kernel.Kernel

    @property
    def environ(self) -> MutableMapping[str, str]:
        return self._environ

    def owner(self) -> int:
        with self._call("owner"):
            return self.user

    def command(self) -> Sequence[str]:
        with self._call("command"):
            return self.argv

    @property
    def handoff(self) -> str:
        value = self._xoptions.get("affinity", "")
        return value if isinstance(value, str) else ""

    def thread_id(self) -> int:
        return int(getattr(self._acting, "tid", self._id))

    @property
    def pid(self) -> int:
        return self._id

    def identity(self) -> str:
        return f"{self._id}-simulated"

    @property
    def is_this_process(self) -> bool:
        return False

    def parent(self) -> Process | None:
        return self._machine.processes.get(self._parent)

    def process(self, pid: int) -> Process:
        found = self._machine.processes.get(pid)
        if found is None:
            raise _error(errno.ESRCH, f"process {pid}")
        return found

    def pids(self) -> Mapping[int, int]:
        return {pid: id(process) for pid, process in self._machine.processes.items()}

    def processes(self) -> Iterator[Process]:
        return iter(list(self._machine.processes.values()))

    def threads(self) -> Sequence[int]:
        with self._call("threads"):
            return list(self._threads)

    def get_affinity(self, tid: int = 0) -> CpuSet:
        with self._call("get_affinity", tid):
            return self._thread(tid).mask

    def set_affinity(self, tid: int, cpus: CpuSet) -> None:
        with self._call("set_affinity", tid, cpus):
            thread = self._thread(tid)
            mask = self._machine.cpuset & cpus  # a TypeError for another type
            if not mask:
                raise _error(errno.EINVAL, "sched_setaffinity")
            thread.mask = mask
            if thread.cpu not in mask:
                thread.cpu = mask.first()

    def online(self) -> CpuSet:
        with self._call("online"):
            return self._machine.topology.online

    def allowed_nodes(self) -> NodeSet:
        with self._call("allowed_nodes"):
            return self._machine.mems

    def get_mempolicy(self, tid: int = 0) -> MemoryPolicy:
        with self._call("get_mempolicy"):
            return self._thread(tid).policy

    def affinities(self) -> Mapping[int, CpuSet]:
        return self._of_each_thread(self.get_affinity)

    def mempolicies(self) -> Mapping[int, MemoryPolicy]:
        return self._of_each_thread(self.get_mempolicy)

    def _of_each_thread(self, read: Callable[[int], T]) -> dict[int, T]:
        found = {}
        for tid in self.threads():
            with suppress(ProcessLookupError):  # the thread has ended
                found[tid] = read(tid)
        return found

    def set_mempolicy(self, policy: MemoryPolicy) -> None:
        with self._call("set_mempolicy", policy):
            self._me().policy = self._accepted(policy)

    def _accepted(self, policy: MemoryPolicy) -> MemoryPolicy:
        """The policy as the kernel keeps it: nodes outside the cpuset cut; EINVAL where none is left."""
        mode, nodes = policy.mode, policy.nodes
        if mode is MemoryMode.PREFERRED and not nodes:
            return MemoryPolicy(MemoryMode.LOCAL)
        plain = mode in (MemoryMode.DEFAULT, MemoryMode.LOCAL)
        kept = nodes & self._machine.mems
        if mode not in self._machine.modes or (nodes if plain else not kept):
            raise _error(errno.EINVAL, "set_mempolicy")
        return attrs.evolve(policy, nodes=NodeSet([kept.first()]) if mode is MemoryMode.PREFERRED else kept)

    def set_mempolicy_libnuma(self, policy: MemoryPolicy) -> None:
        if self._machine.libnuma:
            raise BindError(self._machine.libnuma)
        if policy.mode in (MemoryMode.DEFAULT, MemoryMode.WEIGHTED_INTERLEAVE):
            raise BindError(f"this libnuma has no call for memory policy {policy}: libnuma 2.0.15 or later")
        with suppress(OSError):  # as libnuma: a line on stderr, and no value
            self.set_mempolicy(policy)

    def libnuma_error(self) -> str:
        return self._machine.libnuma

    def migrate_pages(self, origin: NodeSet, target: NodeSet) -> int:
        with self._call("migrate_pages", origin, target):
            require_move_target(target, self._machine.mems)
            for source, dest in destinations(origin, target).items():
                pages = self._pages.pop(source, 0)
                got = self._take(dest, pages)
                if source in self._machine.free:
                    self._machine.free[source] += got
                if got < pages:
                    self._pages[source] = pages - got
                    raise _error(errno.ENOMEM, "move_pages")
            return 0

    def available_bytes(self, node: int) -> int:
        with self._call("available_bytes", node):
            if node not in self._machine.free:
                raise _error(errno.ENOENT, f"node {node}")
            return self._machine.free[node] * PAGE

    def cgroup(self) -> str:
        with self._call("cgroup"):
            return self._cgroup

    def cpuset_cpus(self) -> CpuSet:
        with self._call("cpuset_cpus"):
            return self._machine.cpuset

    @contextmanager
    def watched(self) -> Iterator[None]:
        with self._call("watched"):
            pass
        yield
        with self._call("watched"):
            pass

    def resident_bytes(self, longest: float = 0) -> ResidentBytes:
        with self._call("resident"):
            return ResidentBytes(self.pages_by_node)

    def age(self) -> float:
        with self._call("age"):
            return self.seconds

    def check_page_moves(self) -> None:
        with self._call("check_page_moves"):
            number, _ = self._machine.refusals.get("migrate_pages", (0, bool))
            if number:
                raise _error(number, "move_pages")

    def check_command(self, argv: Sequence[str], timeout: float) -> str | None:
        with self._call("probe", tuple(argv)):
            try:
                self.spawn(argv).end()
            except programs.CommandFailed as failed:
                return str(failed)
            return None

    def exec(self, argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
        with self._call("exec", tuple(argv)):
            self._free_pages()
            # The program that called is gone; what it does while Executed passes through it reaches this object alone.
            process = object.__new__(SimulatedKernel)
            process._machine, process.seconds = self._machine, self.seconds
            process._begin(attrs.evolve(self._me()), environ, {}, pid=self._id, parent=self._parent)
        try:
            inner = programs.run(argv, process)
        except programs.CommandFailed as failed:
            raise Executed(argv, environ, process, str(failed)) from None
        process._xoptions, process.argv = programs.xoptions(inner), list(inner)
        raise Executed(inner, environ, process)

    # ------------------------------------------------------------ inside

    @contextmanager
    def _call(self, name: str, *arguments: object) -> Iterator[None]:
        number = 0
        with self._machine.lock:
            try:
                refusal, when = self._machine.refusals.get(name, (0, bool))
                if not self._threads:
                    raise _error(errno.ESRCH, f"process {self._id}")
                if refusal and when(*arguments):
                    raise _error(refusal, _SYSCALLS.get(name, name))
                yield
            except OSError as refused:
                number = refused.errno or 0
                raise
            finally:
                self._machine.log.append(Call(name, self._id, self.thread_id(), arguments, number))

    def _thread(self, tid: int) -> _Thread:
        found = self._threads.get(tid or self.thread_id())
        if found is None:
            raise _error(errno.ESRCH, f"thread {tid}")
        return found

    def _me(self) -> _Thread:
        return self._thread(0)


def _error(number: int, call: str) -> OSError:
    return OSError(number, os.strerror(number), call)


def _by_distance(topology: Topology, node: int, among: NodeSet) -> list[int]:
    row = topology.distances.get(node, {})
    return sorted(among, key=lambda n: (n != node, row.get(n, 0), n))
