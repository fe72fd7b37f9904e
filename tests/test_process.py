"""A process: one contract, held by another one by its PID, by one that looks at itself, and by simulated ones."""

from __future__ import annotations

import base64
import errno
import os
import pickle
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from affinity import CpuSet, NodeSet
from affinity.handoff import Handoff
from affinity.kernel import Kernel, MemoryMode, MemoryPolicy, Process
from affinity.kernel.linux import THIS_PROCESS
from affinity.kernel.process import LinuxProcess
from affinity.testing import FakeHost

MIB = 1 << 20
PROGRAM = [sys.executable, str(Path(__file__).with_name("process_program.py"))]
HANDOFF = "cpus=0;allowed=0;gpus=0000:1b:00.0"


def as_user(uid: int) -> tuple[str, ...]:
    """Return the command before a program of another user, to whom the directories of this package may be closed."""
    return ("setpriv", f"--reuid={uid}", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


class Child(Protocol):
    """A process that a test can give orders to."""

    @property
    def pid(self) -> int: ...
    def start_thread(self) -> int: ...
    def end_thread(self, tid: int) -> None: ...
    def set_mempolicy(self, policy: MemoryPolicy) -> None: ...
    def touch(self, size: int) -> None: ...
    def end(self) -> None: ...


class RealChild:
    """A child of this process. handoff: what it is started with, "" for nothing."""

    def __init__(self, *prefix: str, handoff: str = HANDOFF) -> None:
        argv = [*prefix, PROGRAM[0], *(("-X", f"affinity={handoff}") if handoff else ()), *PROGRAM[1:]]
        environ = {**os.environ, "MARK": "a=b"}
        self.running = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ, bufsize=1
        )
        self.pid = int(self._read())

    def _read(self) -> str:
        assert self.running.stdout is not None
        return self.running.stdout.readline()

    def order(self, *words: object) -> str:
        assert self.running.stdin is not None
        print(*words, file=self.running.stdin, flush=True)
        return self._read()

    def start_thread(self) -> int:
        return int(self.order("thread"))

    def end_thread(self, tid: int) -> None:
        self.order("end-thread", tid)

    def set_mempolicy(self, policy: MemoryPolicy) -> None:
        self.order("policy", policy.mode.value, policy.nodes)

    def touch(self, size: int) -> None:
        self.order("touch", size)

    def end(self) -> None:
        self.running.communicate()


class ProcessContract(ABC):
    """What holds for every process. itself: it is the one that looks."""

    itself = False

    @abstractmethod
    def make(self) -> tuple[Kernel, Child]:
        """Start a process; return the kernel of the process that looks, and the one that was started."""

    @pytest.fixture
    def kernel_and_child(self) -> Iterator[tuple[Kernel, Child]]:
        kernel, child = self.make()
        yield kernel, child
        if any(process.pid == child.pid for process in kernel.processes()):
            child.end()

    @pytest.fixture
    def kernel(self, kernel_and_child: tuple[Kernel, Child]) -> Kernel:
        return kernel_and_child[0]

    @pytest.fixture
    def child(self, kernel_and_child: tuple[Kernel, Child]) -> Child:
        return kernel_and_child[1]

    @pytest.fixture
    def process(self, kernel: Kernel, child: Child) -> Process:
        return kernel.process(child.pid)

    def test_it_is_the_process_of_that_pid(self, kernel: Kernel, child: Child, process: Process) -> None:
        """It has a parent, an age, and an identity that the parent does not have."""
        assert (process.pid, process.thread_id(), process.is_this_process) == (child.pid, child.pid, self.itself)
        parent = process.parent()
        assert parent is not None
        assert (parent.pid, parent.identity()) == (kernel.pid, kernel.identity())
        assert process.identity() == kernel.process(child.pid).identity() != kernel.identity()
        assert 0 <= process.age() < 60

    def test_it_has_a_control_group_whose_cpuset_may_be_wider_than_its_mask(self, process: Process) -> None:
        """The path is that of /proc; a mask that is narrowed leaves the cpuset as it was."""
        cpus = process.cpuset_cpus()
        process.set_affinity(0, CpuSet([max(cpus)]))
        assert process.get_affinity() <= process.cpuset_cpus() == cpus
        assert process.cgroup().startswith("/")

    def test_nodes_have_room(self, process: Process) -> None:
        """Bytes, of each node that it may use; OSError for one that is not there."""
        assert all(process.available_bytes(node) > 1 << 20 for node in process.allowed_nodes())
        with pytest.raises(OSError):
            process.available_bytes(900)

    def test_what_it_was_started_with_is_seen(self, process: Process) -> None:
        """Its variables, and what a parent passed to it."""
        assert process.environ["MARK"] == "a=b"
        assert process.handoff == HANDOFF
        assert Handoff.received(process) == Handoff.parse(HANDOFF)
        assert process.command() == [PROGRAM[0], "-X", f"affinity={HANDOFF}", *PROGRAM[1:]]

    def test_it_runs_as_a_user(self, kernel: Kernel, process: Process) -> None:
        """That of the process that started it."""
        assert process.owner() == kernel.owner()

    def test_it_is_one_of_the_processes(self, kernel: Kernel, child: Child) -> None:
        """As is the process that looks, which is the kernel itself."""
        found = {process.pid: process for process in kernel.processes()}
        assert found[child.pid].identity() == kernel.process(child.pid).identity()
        assert found[kernel.pid] is kernel.process(kernel.pid) is kernel
        assert kernel.pids().keys() >= {child.pid, kernel.pid}
        assert kernel.pids()[child.pid] == kernel.pids()[child.pid]

    def test_threads_come_and_go(self, child: Child, process: Process) -> None:
        """One that has ended is a ProcessLookupError."""
        tid = child.start_thread()
        assert set(process.threads()) == {child.pid, tid}
        child.end_thread(tid)
        assert set(process.threads()) == {child.pid}
        for call in (process.get_affinity, process.get_mempolicy, lambda t: process.set_affinity(t, CpuSet([0]))):
            with pytest.raises(ProcessLookupError):
                call(tid)

    def test_each_thread_has_its_own_mask(self, child: Child, process: Process) -> None:
        """0 is the main thread."""
        tid = child.start_thread()
        before = process.get_affinity(tid)
        process.set_affinity(0, CpuSet([before.first()]))
        assert process.get_affinity() == process.get_affinity(child.pid) == CpuSet([before.first()])
        assert process.get_affinity(tid) == before
        process.set_affinity(0, before)
        process.set_affinity(tid, CpuSet([max(before)]))
        assert (process.get_affinity(tid), process.get_affinity()) == (CpuSet([max(before)]), before)
        with pytest.raises(OSError, match="sched_setaffinity"):
            process.set_affinity(tid, CpuSet())

    def test_all_threads_are_read_in_one_look(self, child: Child, process: Process) -> None:
        """The same as one by one; one that has ended is left out."""
        first, second = child.start_thread(), child.start_thread()
        process.set_affinity(first, CpuSet([process.get_affinity().first()]))
        child.set_mempolicy(MemoryPolicy(MemoryMode.LOCAL))
        masks, policies = process.affinities(), process.mempolicies()
        assert masks == {tid: process.get_affinity(tid) for tid in (child.pid, first, second)}
        assert policies == {tid: process.get_mempolicy(tid) for tid in (child.pid, first, second)}
        assert policies[child.pid] != policies[first]
        child.end_thread(second)
        assert set(process.affinities()) == set(process.mempolicies()) == {child.pid, first}

    def test_a_thread_of_another_process_is_not_touched(self, kernel: Kernel, process: Process) -> None:
        """Neither read nor bound, though the system call would."""
        mask = kernel.get_affinity()
        with pytest.raises(ProcessLookupError):
            process.get_affinity(kernel.thread_id())
        with pytest.raises(ProcessLookupError):
            process.set_affinity(kernel.thread_id(), CpuSet([mask.first()]))
        assert kernel.get_affinity() == mask

    @pytest.mark.parametrize("mode", [MemoryMode.BIND, MemoryMode.PREFERRED, MemoryMode.INTERLEAVE, MemoryMode.LOCAL])
    def test_each_thread_has_its_own_memory_policy(self, child: Child, process: Process, mode: MemoryMode) -> None:
        """Which only it can set, and everyone that may read its memory map sees."""
        policy = MemoryPolicy(mode, NodeSet() if mode is MemoryMode.LOCAL else NodeSet([max(process.allowed_nodes())]))
        tid = child.start_thread()
        child.set_mempolicy(policy)
        assert (process.get_mempolicy(), process.get_mempolicy(tid)) == (policy, MemoryPolicy())

    def test_its_pages_are_counted_and_moved(self, kernel: Kernel, child: Child, process: Process) -> None:
        """Those that it has touched, by node."""
        before = sum(process.resident_bytes().values())
        child.touch(32 * MIB)
        assert sum(process.resident_bytes().values()) - before >= 32 * MIB
        assert process.allowed_nodes() == kernel.allowed_nodes()
        node = NodeSet([max(process.allowed_nodes())])
        assert process.migrate_pages(process.allowed_nodes(), node) == 0
        assert sum(process.resident_bytes()[n] for n in node) - before >= 32 * MIB

    @pytest.mark.parametrize(("nodes", "number"), [([], "EINVAL"), ([900], "EPERM"), ([0, 900], "EPERM")])
    def test_pages_are_not_moved_to_nodes_that_it_may_not_use(
        self, process: Process, nodes: list[int], number: str
    ) -> None:
        """Nor to none."""
        with pytest.raises(OSError) as refused:
            process.migrate_pages(process.allowed_nodes(), NodeSet(nodes))
        assert errno.errorcode[refused.value.errno or 0] == number

    def test_watching_it_shows_that_it_has_ended(self, child: Child, process: Process) -> None:
        """At the end of the block, and at the begin of the next one."""
        with process.watched():
            pass
        with pytest.raises(ProcessLookupError), process.watched():
            child.end()
        with pytest.raises(ProcessLookupError), process.watched():
            raise AssertionError

    def test_of_a_process_that_has_ended_every_call_is_refused(self, kernel: Kernel, child: Child) -> None:
        """With ProcessLookupError, and there is no such process any more."""
        process, tid = kernel.process(child.pid), child.start_thread()
        child.end()
        calls: list[Callable[[], object]] = [
            process.threads,
            process.get_affinity,
            process.get_mempolicy,
            process.allowed_nodes,
            process.resident_bytes,
            process.age,
            process.owner,
            process.affinities,
            process.mempolicies,
            process.command,
            lambda: process.get_affinity(tid),
            lambda: process.set_affinity(0, CpuSet([0])),
            lambda: process.migrate_pages(NodeSet([0]), NodeSet([0])),
            lambda: kernel.process(child.pid),
        ]
        for call in calls:
            with pytest.raises(ProcessLookupError):
                call()
        assert child.pid not in {process.pid for process in kernel.processes()}


class TestLinuxProcess(ProcessContract):
    def make(self) -> tuple[Kernel, Child]:
        return THIS_PROCESS, RealChild()


class Itself:
    """The kernel of a child, asked through the child."""

    def __init__(self, child: RealChild) -> None:
        self._child = child

    def __getattr__(self, name: str) -> Any:
        if name in ("pid", "environ", "handoff", "is_this_process"):
            return self._ask(name)
        return lambda *arguments: self._ask(name, *arguments)

    def _ask(self, name: str, *arguments: object) -> Any:
        data = base64.b64encode(pickle.dumps((name, arguments))).decode()
        answer = pickle.loads(base64.b64decode(self._child.order("call", data)))
        if isinstance(answer, OSError):
            raise answer
        return answer


class TestLinuxKernel(ProcessContract):
    """A process that looks at itself: it has not ended, and no tid that it uses is another process's."""

    itself = True
    test_watching_it_shows_that_it_has_ended = None  # type: ignore[assignment]
    test_of_a_process_that_has_ended_every_call_is_refused = None  # type: ignore[assignment]
    test_a_thread_of_another_process_is_not_touched = None  # type: ignore[assignment]

    def make(self) -> tuple[Kernel, Child]:
        return THIS_PROCESS, RealChild()

    @pytest.fixture
    def process(self, kernel: Kernel, child: Child) -> Process:
        return Itself(child)  # type: ignore[return-value, arg-type]


class TestSimulatedProcess(ProcessContract):
    def make(self) -> tuple[Kernel, Child]:
        kernel = FakeHost("pack:2 numa:1 core:4", environ={"MARK": "a=b"}).kernel
        return kernel, kernel.spawn([PROGRAM[0], "-X", f"affinity={HANDOFF}", *PROGRAM[1:]])


def test_a_kernel_thread_is_no_process() -> None:
    """Setting kthreadd's mask would succeed."""
    if not Path("/proc/2/stat").is_file() or " (kthreadd) " not in Path("/proc/2/stat").read_text():
        pytest.skip("no kernel thread in this PID namespace")
    with pytest.raises(PermissionError, match="kernel thread"):
        THIS_PROCESS.process(2)
    assert 2 not in {process.pid for process in THIS_PROCESS.processes()}


def test_another_users_process_shows_its_threads_and_not_its_memory() -> None:
    """Masks and stat are everyone's; variables and memory maps are not."""
    if os.getuid() != 0:
        pytest.skip("becomes another user, which takes root; continuous integration is")
    text = """
import os
from affinity.kernel.linux import THIS_PROCESS
os.setuid(65534)
process = THIS_PROCESS.process(1)
print(len(process.threads()) > 0, bool(process.get_affinity()), bool(process.allowed_nodes()), process.age() > 0)
print(process.owner(), bool(process.command()))
for look in (lambda: process.environ, process.resident_bytes, process.get_mempolicy, process.mempolicies):
    try: look()
    except PermissionError as refused: print(type(refused).__name__)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["True True True True", "0 True", *["PermissionError"] * 4], done.stderr


def test_the_cpuset_of_another_container_is_not_taken_for_that_of_a_process(tmp_path: Path) -> None:
    """In a container with the PIDs of the host, the files of control groups are the container's own."""
    found = Path("/sys/fs/cgroup/cpuset/cpuset.effective_cpus")
    if os.geteuid() != 0 or not found.is_file() or not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("takes root, CPUs 0 and 1, and cpusets of version 1")
    (tmp_path / "cpuset.effective_cpus").write_text("1\n")
    text = "import os; from affinity.kernel.linux import THIS_PROCESS; print(THIS_PROCESS.process(os.getppid()).{})"
    shell = "mount --bind {} /sys/fs/cgroup/cpuset && taskset -c 1 {} -c '{}'"
    shown = {}
    for name in ("online()", "cpuset_cpus()"):
        script = shell.format(tmp_path, sys.executable, text.format(name))
        done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=True)
        shown[name] = done.stdout
    assert shown["cpuset_cpus()"] == shown["online()"]


THREADS = """
import sys, threading, time
threading.stack_size(1 << 15)
for _ in range(int(sys.argv[1])): threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
print(flush=True)
time.sleep(100)
"""


def test_a_look_at_one_thread_does_not_cost_a_look_at_all() -> None:
    """Else all of them cost the square of their number, and the process waits for a lock of its threads each time."""

    def seconds(threads: int) -> float:
        argv = [sys.executable, "-c", THREADS, str(threads)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            running.stdout.readline()
            process = LinuxProcess(running.pid)
            times = []
            for _ in range(50):
                start = time.perf_counter()
                process.get_affinity()
                times.append(time.perf_counter() - start)
            running.kill()
        return min(times)

    assert seconds(3000) < 3 * seconds(1)


NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")


def in_namespace(text: str, *options: str) -> list[str]:
    """Run a program as the first process of a PID namespace; return the lines it printed."""
    if subprocess.run([*options, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespace can be made here; continuous integration can")
    done = subprocess.run(
        [*options, sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def choosing_pids(text: str, *options: str) -> list[str]:
    """Do the same for a program that chooses the PIDs of its children."""
    try:
        return in_namespace(text, *options)
    except AssertionError as refused:
        if "ns_last_pid" in str(refused):
            pytest.skip("this kernel lets no one choose a PID (CONFIG_CHECKPOINT_RESTORE)")
        raise


def test_a_pid_that_was_given_to_another_process_is_not_touched() -> None:
    """The kernel is made to give it again, in a PID namespace of its own."""
    text = """
import os, subprocess, time
from affinity import CpuSet, NodeSet
from affinity.kernel.linux import THIS_PROCESS
def start(pid):
    with open("/proc/sys/kernel/ns_last_pid", "w") as last: last.write(str(pid - 1))
    child = subprocess.Popen(["sleep", "60"])
    assert child.pid == pid
    return child
first = start(500)
process, number = THIS_PROCESS.process(500), THIS_PROCESS.pids()[500]
first.kill(); first.wait()
time.sleep(2 / os.sysconf("SC_CLK_TCK"))
second = start(500)
mask = THIS_PROCESS.process(500).get_affinity()
for call in (lambda: process.set_affinity(0, CpuSet([mask.first()])), process.get_affinity, process.threads,
             lambda: process.migrate_pages(NodeSet([0]), NodeSet([0])), lambda: process.environ):
    try: call()
    except ProcessLookupError as refused: print(refused.strerror)
print(THIS_PROCESS.pids()[500] == number)
print(THIS_PROCESS.process(500).get_affinity() == mask, process.identity() == THIS_PROCESS.process(500).identity())
second.kill()
"""
    assert choosing_pids(text, *NAMESPACE) == [*["the PID belongs to another process now"] * 5, "False", "True False"]


def test_under_a_foreign_proc_no_process_is_found() -> None:
    """Its numbers are those of another namespace: what a call would change is another process."""
    text = """
from affinity.errors import ForeignProcError
from affinity.kernel.linux import THIS_PROCESS
for look in (lambda: THIS_PROCESS.process(2), lambda: list(THIS_PROCESS.processes()), THIS_PROCESS.pids,
             THIS_PROCESS.threads):
    try: look()
    except ForeignProcError as refused: print(refused)
print(THIS_PROCESS.parent())
"""
    expected = "/proc: of another PID namespace; expected this one's: mount proc (unshare --mount-proc)"
    assert in_namespace(text, *NAMESPACE[:-1]) == [*[expected] * 4, "None"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU: every mask is the same")
def test_under_a_foreign_proc_the_calling_thread_alone_is_bound() -> None:
    """Processes whose PIDs here are the numbers that /proc has for the threads keep their masks; `required` raises."""
    text = """
import os, subprocess, threading, affinity
from affinity import CpuSet, Settings
other = threading.Thread(target=threading.Event().wait, daemon=True)
other.start()
numbers = [int(tid) for tid in os.listdir("/proc/self/task")]
victims = []
for number in numbers:
    with open("/proc/sys/kernel/ns_last_pid", "w") as last: last.write(str(number - 1))
    victims.append(subprocess.Popen(["sleep", "60"]))
assert [victim.pid for victim in victims] == numbers
every = os.sched_getaffinity(0)
one = CpuSet([min(every)])
def untouched(): return all(os.sched_getaffinity(tid) == every for tid in [*numbers, other.native_id])
def settings(**more): return Settings(policy="explicit", cpus=(one,), nodes=(0,), devices=("pci",), **more)
report = affinity.bind(settings=settings())
print(os.sched_getaffinity(0) == set(one), untouched(), report.satisfied)
print([(d.action, d.errno) for d in report.degradations])
report.undo()
print(os.sched_getaffinity(0) == every, untouched())
try: affinity.bind(settings=settings(required=True))
except affinity.BindError as refused: print("unshare --mount-proc" in str(refused))
print(os.sched_getaffinity(0) == every, untouched())
for victim in victims: victim.kill()
"""
    assert choosing_pids(text, *NAMESPACE[:-1]) == [
        "True True False",
        "[('bind every thread', 'ENOTSUP')]",
        "True True",
        "True",
        "True True",
    ]


def test_this_process_by_its_pid_is_itself() -> None:
    """Also where the class for other processes is used on it."""
    assert THIS_PROCESS.process(os.getpid()) is THIS_PROCESS
    assert LinuxProcess(os.getpid()).identity() == THIS_PROCESS.identity()


@pytest.mark.parametrize(("title", "shown"), [(b"a title", ["a title"]), (b"", None)])
def test_a_command_line_is_shown_as_the_process_has_rewritten_it(title: bytes, shown: list[str] | None) -> None:
    """As servers do, in place; one that shows none has its name. Source: proc(5), arg_start and arg_end."""
    text = """
import ctypes, os, sys
start, end = map(int, open("/proc/self/stat").read().rpartition(")")[2].split()[45:47])
ctypes.memset(start, 0, end - start)
ctypes.memmove(start, os.fsencode(sys.argv[1]), len(os.fsencode(sys.argv[1])))
print(flush=True)
input()
"""
    command = [sys.executable, "-c", text, os.fsdecode(title)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        name = Path(f"/proc/{child.pid}/comm").read_text().rstrip("\n")
        assert THIS_PROCESS.process(child.pid).command() == (shown or [name])
        child.communicate("\n")
