"""What changes or fails between one step and the next: CPUs, cpusets, threads, programs, an interrupt."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import affinity
from affinity import BindError, CpuSet, Host, NodeSet, Settings
from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.kernel.linux import THIS_PROCESS, LinuxKernel
from affinity.plugins import Plugins
from affinity.policies import Placement
from affinity.render import serialize
from affinity.selection.fallback import Applied, apply
from affinity.selection.rules import Selection
from affinity.strategies import AffinityStrategy, Launch, LaunchMode, Observation, WorkerStart, thread_placed
from affinity.strategies.process import set_mempolicy_verified
from affinity.testing import FakeHost

#: Two packages of one node each, CPUs 0-3 and 4-7; the worker's GPU is on node 1.
MACHINE = "pack:2 numa:1 core:4 gpu:1"
EVERY, NODE_1 = CpuSet.parse("0-7"), CpuSet.parse("4-7")
REQUIRED = Settings(required=True)


def masks(fake: FakeHost) -> set[str]:
    """Each different mask of the process."""
    return {str(mask) for mask in fake.kernel.masks.values()}


# ---------------------------------------------------------------- between plan and bind


def test_a_cpu_goes_offline_between_plan_and_bind() -> None:
    """The rest is bound, in every thread; the report states which CPU was lost, and a second bind is whole again."""
    fake = FakeHost(MACHINE, threads=5)
    seen_before = fake.host
    fake.kernel.narrow(offline=CpuSet([7]))
    report = affinity.bind(gpu=1, host=seen_before)
    assert masks(fake) == {"4-6"}
    assert not report.satisfied
    assert report.unbound_threads == 0
    assert [d.error for d in report.degradations] == [
        "the kernel shows 4-6: 7 went offline or out of the cpuset, or the strategy did not set them"
    ]


def test_under_required_a_lost_cpu_is_an_error_and_nothing_stays_bound() -> None:
    """Back to all that is left, with the default policy."""
    fake = FakeHost(MACHINE, threads=5)
    seen_before = fake.host
    fake.kernel.narrow(cpuset=CpuSet.parse("0-6"))
    with pytest.raises(BindError, match="7 went offline or out of the cpuset"):
        affinity.bind(gpu=1, host=seen_before, settings=REQUIRED)
    assert masks(fake) == {"0-6"}
    assert set(fake.kernel.policies.values()) == {MemoryPolicy()}


@pytest.mark.parametrize("settings", [Settings(), REQUIRED], ids=["best-effort", "required"])
def test_the_whole_node_leaves_the_cpuset_between_plan_and_bind(settings: Settings) -> None:
    """Each step is refused with EINVAL and a remedy; nothing is in force, and best effort is no exception."""
    fake = FakeHost(MACHINE, threads=5)
    seen_before = fake.host
    fake.kernel.narrow(cpuset=CpuSet.parse("0-3"))
    if settings.required:
        with pytest.raises(BindError, match=r"in sched_setaffinity \[EINVAL\]; the CPUs or nodes are outside"):
            affinity.bind(gpu=1, host=seen_before, settings=settings)
    else:
        report = affinity.bind(gpu=1, host=seen_before, settings=settings)
        assert not report.satisfied
        assert {d.errno for d in report.degradations} == {"EINVAL"}
        assert all("affinity show" in d.remedy for d in report.degradations)
    assert masks(fake) == {"0-3"}
    assert set(fake.kernel.policies.values()) == {MemoryPolicy()}


@pytest.mark.parametrize("memory", [MemoryMode.PREFERRED, MemoryMode.BIND])
def test_the_nodes_memory_leaves_the_cpuset_between_plan_and_bind(memory: MemoryMode) -> None:
    """CPUs only: the kernel's EINVAL reaches the report, also through libnuma, which states nothing."""
    fake = FakeHost(MACHINE)
    seen_before = fake.host
    fake.kernel.narrow(mems=NodeSet([0]))
    report = affinity.bind(gpu=1, host=seen_before, settings=Settings(memory=memory))
    assert masks(fake) == {"4-7"}
    assert set(fake.kernel.policies.values()) == {MemoryPolicy()}
    assert {d.errno for d in report.degradations} == {"EINVAL"}
    steps = 2 * (1 if memory is MemoryMode.PREFERRED else 2)  # libnuma and inherit, each at each step
    assert len(report.degradations) == steps


def test_a_policy_that_the_kernel_cuts_is_no_success() -> None:
    """bind:0,1 of which one is left: printed, with what the kernel made of it, and taken back."""
    fake = FakeHost(MACHINE)
    seen_before = fake.host
    fake.kernel.narrow(mems=NodeSet([1]))
    report = affinity.bind(gpu=[0, 1], host=seen_before, settings=Settings(memory=MemoryMode.BIND))
    printed = [d.error for d in report.degradations]
    assert "memory policy bind:0-1 was asked for, the kernel made it bind:1: nodes outside the cpuset?" in printed
    assert report.observed.policy == MemoryPolicy()
    assert not report.satisfied


@pytest.mark.parametrize("resets_masks", [False, True], ids=["from-6.2", "before-6.2"])
def test_a_parent_whose_cpuset_shrinks_while_it_starts_a_worker(resets_masks: bool) -> None:
    """The thread that starts it goes back to all that is left; leaving the block raises nothing."""
    fake = FakeHost(MACHINE, resets_masks=resets_masks)
    inherit = Plugins().strategies.get("inherit")
    there = Placement(NODE_1, MemoryPolicy(MemoryMode.PREFERRED, NodeSet([1])))
    observation = Observation(fake.host, Launch(LaunchMode.SPAWN, start_method="spawn"))
    with inherit.start(there, observation).around():
        fake.kernel.narrow(cpuset=CpuSet.parse("0-5"))
    assert masks(fake) == {"0-5"}
    assert set(fake.kernel.policies.values()) == {MemoryPolicy()}


@pytest.mark.parametrize("call", ["get_affinity", "set_affinity"])
def test_a_thread_ends_between_the_listing_and_a_call(call: str) -> None:
    """It is passed over; the others are bound, and go back."""
    fake = FakeHost(MACHINE, threads=6)
    gone = max(fake.kernel.masks)
    fake.kernel.refuse(call, errno.ESRCH, when=lambda tid, *_: tid == gone)
    report = affinity.bind(gpu=1, host=fake.host, settings=REQUIRED)
    assert {str(mask) for tid, mask in fake.kernel.masks.items() if tid != gone} == {"4-7"}
    assert report.outcome.skipped == 0
    report.undo()
    assert masks(fake) == {"0-7"}


def test_undo_puts_back_what_it_can_and_states_what_it_cannot() -> None:
    """One thread's mask is refused: the other threads and the memory policy are back all the same."""
    fake = FakeHost(MACHINE, threads=6)
    report = affinity.bind(gpu=1, host=fake.host)
    stuck = sorted(fake.kernel.masks)[2]
    fake.kernel.refuse("set_affinity", errno.EPERM, when=lambda tid, _: tid == stuck)
    with pytest.raises(BindError, match=r"undo: .*CPUs: Operation not permitted in sched_setaffinity \[EPERM\]"):
        report.undo()
    assert {tid for tid, mask in fake.kernel.masks.items() if mask == NODE_1} == {stuck}
    assert set(fake.kernel.policies.values()) == {MemoryPolicy()}


@pytest.mark.parametrize(("call", "number"), [("set_affinity", 2), ("set_mempolicy", 1), ("migrate_pages", 1)])
def test_an_interrupt_in_the_middle_leaves_nothing_half_bound(call: str, number: int) -> None:
    """KeyboardInterrupt goes on to the caller, from a process that is as it was."""
    fake = FakeHost(MACHINE, threads=4)
    fake.kernel.touch(1 << 20)
    calls = iter(range(1, 100))

    def interrupted(*_: object) -> bool:
        if next(calls) == number:
            raise KeyboardInterrupt
        return False

    fake.kernel.refuse(call, errno.EIO, when=interrupted)
    with pytest.raises(KeyboardInterrupt):
        affinity.bind(gpu=1, host=fake.host)
    assert masks(fake) == {"0-7"}
    assert set(fake.kernel.policies.values()) == {MemoryPolicy()}
    assert "AFFINITY_BOUND" not in fake.kernel.environ


# ---------------------------------------------------------------- numactl


class Patched(LinuxKernel):
    """This machine, with other programs on PATH and less patience."""

    def __init__(self, folder: Path, seconds: float | None = None) -> None:
        super().__init__()
        self.folder, self.seconds = folder, seconds
        self.asked: list[tuple[Sequence[str], float]] = []

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": f"{self.folder}:/usr/bin:/bin"}

    def check_command(self, argv: Sequence[str], timeout: float) -> str | None:
        self.asked.append((argv, timeout))
        return super().check_command(argv, self.seconds or timeout)


def program(folder: Path, body: str, name: str = "numactl") -> Path:
    """A shell script."""
    place = folder / name
    place.write_text(f"#!/bin/sh\n{body}\n")
    place.chmod(0o755)
    return place


@pytest.mark.parametrize("body", ["exec sleep 301", "sleep 301", "trap '' TERM INT; sleep 301 & wait"])
def test_a_numactl_that_hangs_is_dropped_and_ended(tmp_path: Path, body: str) -> None:
    """Within the limit (ten seconds by default), with all that it has started; the worker is started without it."""
    program(tmp_path, body)
    kernel = Patched(tmp_path, seconds=0.3)
    start = time.monotonic()
    with affinity.spawning(node=0, host=Host.live(kernel)) as planned:
        pass
    assert time.monotonic() - start < 5
    assert planned.selection.strategy == "inherit"
    assert "did not answer within 0.3 s" in planned.selection.reason
    assert {limit for _, limit in kernel.asked} == {10.0}
    deadline = time.monotonic() + 5
    while running("sleep", "301") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running("sleep", "301") == []


def running(*command: str) -> list[str]:
    """Processes with this very command line."""
    wanted = b"".join(word.encode() + b"\0" for word in command)
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path("/proc", name, "cmdline").read_bytes() == wanted:
                found.append(name)
        except OSError:
            continue
    return found


def down_the_ladder(placement: Placement, host: Host) -> Applied[WorkerStart]:
    """Around a start, from this placement down, with numactl alone."""
    numactl = Plugins().strategies

    observation = Observation(host, Launch(LaunchMode.SPAWN, start_method="spawn"))

    def start(strategy: AffinityStrategy, rung: Placement) -> WorkerStart:
        return strategy.start(rung, observation)

    return apply(start, placement, Selection("numactl", "named"), numactl, required=False)


def test_a_numactl_too_old_for_preferred_many_takes_one_node(tmp_path: Path) -> None:
    """Its complaint is quoted, not the page of usage behind it; the next step down works with it."""
    program(
        tmp_path,
        """case "$*" in *--preferred-many*)
    echo "$0: unrecognized option '--preferred-many=0'" >&2
    echo "usage: numactl [--all | -a] [--interleave= | -i <nodes>]" >&2
    echo "<length> can have g (GB), m (MB) or k (KB) suffixes" >&2
    exit 1;;
esac
exec /usr/bin/numactl "$@" """,
    )
    host = Host.live(Patched(tmp_path))
    many = Placement(None, MemoryPolicy(MemoryMode.PREFERRED_MANY, NodeSet([0])))
    step = down_the_ladder(many, host)
    (degradations,) = step.degradations
    assert degradations.error.endswith(
        "exit status 1: " + f"{tmp_path}/numactl: unrecognized option '--preferred-many=0'"
    )
    assert step.placement is not None
    assert step.placement.memory == MemoryPolicy(MemoryMode.PREFERRED, NodeSet([0]))


def test_what_numactl_calls_out_of_range_is_quoted(tmp_path: Path) -> None:
    """The real one, asked for a node that is not there."""
    step = down_the_ladder(Placement(None, MemoryPolicy(MemoryMode.BIND, NodeSet([9]))), Host.live(Patched(tmp_path)))
    assert "node argument 9 is out of range" in step.degradations[0].error
    assert step.placement is None


def test_a_probe_in_a_server_with_thousands_of_open_files() -> None:
    """select(2) ends at descriptor 1023; a server does not."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(1200)]
    try:
        assert THIS_PROCESS.check_command(["true"], 5) is None
        assert THIS_PROCESS.check_command(["sh", "-c", "echo printed >&2; exit 3"], 5) == "exit status 3: printed"
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_fork_while_another_thread_binds_can_bind() -> None:
    """It inherits no lock that a thread held which is not there any more."""
    inside, leave = threading.Event(), threading.Event()

    def wait(*_: object) -> bool:
        inside.set()
        return not leave.wait(60)

    fake = FakeHost(MACHINE)
    fake.kernel.refuse("set_affinity", errno.EPERM, when=wait)
    binding = threading.Thread(target=lambda: affinity.bind(gpu=1, host=fake.host))
    binding.start()
    assert inside.wait(60)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # ends it where it waits for ever
        os._exit(0 if affinity.bind(gpu=1, host=FakeHost(MACHINE).host).satisfied else 1)
    _, status = os.waitpid(pid, 0)
    leave.set()
    binding.join()
    assert os.waitstatus_to_exitcode(status) == 0
    assert masks(fake) == {"4-7"}


# ---------------------------------------------------------------- what counts as ours after a change


@pytest.mark.parametrize("remapped", [False, True])
def test_our_own_policy_is_not_an_outsiders_after_the_mask_has_changed(remapped: bool) -> None:
    """A changed cpuset resets masks (Linux 6.1): the next bind acts, and does not take our policy for a limit."""
    fake = FakeHost(MACHINE, threads=3)
    affinity.bind(gpu=1, host=fake.host)
    for tid in fake.kernel.masks:
        fake.kernel.set_affinity(tid, CpuSet.parse("2-7"))
    if remapped:  # with the cpuset's memory nodes, by the kernel: Documentation/admin-guide/cgroup-v1/cpusets.rst
        fake.kernel.set_mempolicy(MemoryPolicy(MemoryMode.LOCAL))
    report = affinity.bind(gpu=0, host=fake.host, settings=REQUIRED)
    assert masks(fake) == {"2-3"}
    assert str(report.observed.policy) == "preferred:0"


def test_an_operators_policy_around_a_parent_is_one_for_its_workers_too() -> None:
    """Under `numactl --membind=1` nothing is bound over it, neither in the parent nor in what it starts."""
    fake = FakeHost(MACHINE, mask=NODE_1)
    fake.kernel.set_mempolicy(MemoryPolicy(MemoryMode.BIND, NodeSet([1])))
    with affinity.spawning(gpu=1, host=fake.host) as planned:
        worker = fake.start_worker()
    report = affinity.bind(host=worker.host)
    assert (planned.selection.strategy, report.strategy) == ("noop", "noop")
    assert str(report.observed.policy) == "bind:1"


@pytest.mark.parametrize("settings", [Settings(), REQUIRED], ids=["best-effort", "required"])
@pytest.mark.parametrize("resets_masks", [False, True], ids=["from-6.2", "before-6.2"])
def test_a_cpuset_that_shrank_after_the_bind_is_learnt_from_the_next(settings: Settings, resets_masks: bool) -> None:
    """If the mask is still ours, the limit is learnt where the kernel cuts, and the next bind asks for what is left.

    Before Linux 6.2 the mask is the shrunk cpuset: the limit shows at once.
    """
    fake = FakeHost(MACHINE, threads=3, resets_masks=resets_masks)
    affinity.bind(gpu=1, host=fake.host)
    fake.kernel.narrow(cpuset=CpuSet.parse("1-7"))
    assert masks(fake) == ({"1-7"} if resets_masks else {"4-7"})
    if resets_masks:
        assert fake.host.allowed_cpus == CpuSet.parse("1-7")
    elif settings.required:
        with pytest.raises(BindError, match=r"0 went offline or out of the cpuset.*bind again"):
            affinity.bind(gpu=0, host=fake.host, settings=settings)
        assert masks(fake) == {"4-7"}
    else:
        assert not affinity.bind(gpu=0, host=fake.host).satisfied
    assert affinity.bind(gpu=0, host=fake.host, settings=settings).satisfied
    assert masks(fake) == {"1-3"}


# ---------------------------------------------------------------- threads and pages


def test_a_thread_started_between_the_listing_and_its_starters_turn_is_bound() -> None:
    """By a thread not bound yet, so with the old mask: the list is read again."""
    fake = FakeHost(MACHINE, threads=4)
    last = max(fake.kernel.masks)
    born: list[int] = []

    def start(tid: int, *_: object) -> bool:
        if tid == last and len(born) < 3:  # the last of the listed has not been bound yet
            with fake.kernel.acting_as(tid):
                born.append(fake.kernel.start_thread())
        return False

    fake.kernel.refuse("set_affinity", errno.EIO, when=start)
    report = affinity.bind(gpu=1, host=fake.host)
    assert born
    assert masks(fake) == {"4-7"}
    assert (report.outcome.bound, report.unbound_threads) == (4 + len(born), 0)


@pytest.mark.parametrize("migrate", [True, False])
def test_pages_are_left_where_they_are_if_asked(migrate: bool) -> None:
    """AFFINITY_MIGRATE=off: no call that could stall the process."""
    fake = FakeHost(MACHINE, environ={"AFFINITY_MIGRATE": "on" if migrate else "off"})
    fake.kernel.touch(1 << 20)
    report = affinity.bind(gpu=1, host=fake.host)
    assert fake.kernel.pages_by_node == {int(migrate): 1 << 20}
    assert report.moved == migrate << 20
    assert (report.outcome.seconds > 0) is migrate
    assert ("moved: 1.0 MiB touched before, in 0." in str(report)) is migrate
    assert (serialize.report(report)["move_seconds"] > 0) is migrate
    assert ("migrate_pages" in {call.name for call in fake.kernel.log}) is migrate


def test_a_bind_looks_at_pages_before_the_move_and_in_the_report() -> None:
    """Each look may walk the page tables: a bind that moves nothing looks once, and the end of a block not at all."""
    looks = lambda: [call.name for call in fake.kernel.log].count("resident")  # noqa: E731
    fake = FakeHost(MACHINE)
    fake.kernel.touch(1 << 20)
    report = affinity.bind(gpu=1, host=fake.host)
    assert (looks(), report.moved) == (2, 1 << 20)
    assert (affinity.bind(gpu=1, host=fake.host).moved, looks()) == (0, 3)
    with affinity.restored(host=fake.host):
        pass
    assert looks() == 3


def test_pages_in_a_gpus_memory_stay_there() -> None:
    """A node without CPUs is reached by name alone: what lies there was put there."""
    fake = FakeHost("gb200")
    gpu_memory = (fake.topology.memory_nodes - fake.topology.cpu_nodes).first()
    for node in (gpu_memory, 1):
        fake.kernel.set_mempolicy(MemoryPolicy(MemoryMode.BIND, NodeSet([node])))
        fake.kernel.touch(1 << 20)
    fake.kernel.set_mempolicy(MemoryPolicy())
    affinity.bind(node=0, host=fake.host)
    assert fake.kernel.pages_by_node == {0: 1 << 20, gpu_memory: 1 << 20}


def test_undo_trusts_what_the_kernel_shows() -> None:
    """A call that is accepted and changes nothing is no undo."""
    fake = FakeHost(MACHINE, threads=3)
    report = affinity.bind(gpu=1, host=fake.host)
    fake.kernel.narrow(cpuset=CpuSet.parse("2-7"))  # cuts what is put back, without an error
    with pytest.raises(BindError, match=r"undo: CPUs 2-7 and .* are in force, expected CPUs 0-7"):
        report.undo()


def test_two_threads_that_bind_take_turns() -> None:
    """The second acts after the first is done, and each report is of a state that was in force as a whole."""
    fake = FakeHost(MACHINE, threads=4)
    inside = threading.Lock()
    met: list[str] = []

    def look(*_: object) -> bool:
        if not inside.acquire(blocking=False):
            met.append("two at once")
            return False
        time.sleep(0.01)
        inside.release()
        return False

    fake.kernel.refuse("threads", errno.EIO, when=look)
    host = fake.host
    both = [threading.Thread(target=lambda gpu=gpu: affinity.bind(gpu=gpu, host=host)) for gpu in (0, 1)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert met == []
    assert len(masks(fake)) == 1


def test_a_fork_while_another_thread_reads_the_plugins_can_bind(python) -> None:  # type: ignore[no-untyped-def]
    """Python 3.11's functools.cached_property holds a lock, one for all instances, which a fork would inherit."""
    text = """
import os, signal, sys, threading, affinity
parent, inside, leave = os.getpid(), threading.Event(), threading.Event()
class Finder:
    def find_spec(self, *_): return None
    def find_distributions(self, context):
        if os.getpid() == parent:
            inside.set(); leave.wait(30)
        return ()
sys.meta_path.append(Finder())
reading = threading.Thread(target=lambda: affinity.plan(node=0)); reading.start(); inside.wait(20)
pid = os.fork()
if pid == 0:
    signal.alarm(10)  # ends it if it waits for ever
    os._exit(0 if affinity.bind(node=0).satisfied else 1)
_, status = os.waitpid(pid, 0); leave.set(); reading.join()
print(os.waitstatus_to_exitcode(status))
"""
    assert python(text).stdout == "0\n"


# ---------------------------------------------------------------- a thread that starts a worker meanwhile


@contextmanager
def starting_a_worker(fake: FakeHost, leave: threading.Event) -> Iterator[None]:
    """Within the block, another thread has the CPUs of a worker that it starts, until `leave` is set."""
    inside = threading.Event()
    tid = fake.kernel.start_thread()

    def start() -> None:
        with fake.kernel.acting_as(tid), thread_placed(Placement(CpuSet([0]), None), fake.kernel):
            inside.set()
            assert leave.wait(60)

    starter = threading.Thread(target=start)
    starter.start()
    assert inside.wait(60)
    yield
    starter.join()


def meanwhile(act: Callable[[], object], leave: threading.Event) -> None:
    """Act in a thread, let it come as far as it can, and set `leave` then."""
    acting = threading.Thread(target=act)
    acting.start()
    acting.join(0.2)
    leave.set()
    acting.join()


def test_an_undo_gives_a_thread_that_starts_a_worker_its_own_mask_back() -> None:
    """It is bound as all others; the CPUs that it has for the worker are not its own."""
    fake = FakeHost(MACHINE, threads=3)
    report = affinity.bind(gpu=1, host=fake.host)
    leave = threading.Event()
    with starting_a_worker(fake, leave):
        meanwhile(report.undo, leave)
    assert masks(fake) == {"0-7"}


def test_a_state_that_is_saved_while_a_thread_starts_a_worker_has_its_own_mask() -> None:
    """Whatever saved it: a `restored()` block, or a bind."""
    fake = FakeHost(MACHINE, threads=3)
    leave = threading.Event()

    def bind_for_a_while() -> None:
        with affinity.restored(host=fake.host):
            affinity.bind(gpu=1, host=fake.host)
            bound.append(masks(fake))

    bound: list[set[str]] = []
    with starting_a_worker(fake, leave):
        meanwhile(bind_for_a_while, leave)
    assert (bound, masks(fake)) == ([{"4-7"}], {"0-7"})


# ---------------------------------------------------------------- undo of threads that changed meanwhile


def test_an_undo_gives_threads_started_while_bound_what_the_process_had() -> None:
    """One that was started bound has the whole machine again; one that its owner pinned keeps its CPU."""
    fake = FakeHost(MACHINE, threads=2)
    report = affinity.bind(gpu=0, host=fake.host)
    started, pinned = fake.kernel.start_thread(), fake.kernel.start_thread()
    fake.kernel.set_affinity(pinned, CpuSet([6]))
    report.undo()
    assert {tid: str(mask) for tid, mask in fake.kernel.masks.items() if tid in (started, pinned)} == {
        started: "0-7",
        pinned: "6",
    }


def test_a_second_bind_takes_threads_that_the_first_left_on_what_was_allowed() -> None:
    """As one that a thread which was not bound yet has started."""
    fake = FakeHost("pack:2 numa:1 core:4 gpu:2")
    affinity.bind(gpu=1, host=fake.host)
    late = fake.kernel.start_thread()
    fake.kernel.set_affinity(late, EVERY)
    affinity.bind(gpu=0, host=fake.host)
    assert str(fake.kernel.masks[late]) == "0-3"


def test_a_policy_that_the_kernel_cuts_is_taken_back() -> None:
    fake = FakeHost(MACHINE, allowed_nodes="1")
    before = MemoryPolicy(MemoryMode.PREFERRED, NodeSet([1]))
    fake.kernel.set_mempolicy(before)
    both = MemoryPolicy(MemoryMode.BIND, NodeSet([0, 1]))
    with pytest.raises(BindError, match="the kernel made it bind:1"):
        set_mempolicy_verified(both, fake.kernel, fake.kernel.set_mempolicy)
    assert fake.kernel.get_mempolicy() == before


def test_each_attempt_starts_from_the_same_state() -> None:
    """A refused memory policy takes the masks back, before the placement without memory is tried."""
    fake = FakeHost(MACHINE)
    fake.kernel.refuse("set_mempolicy", errno.EPERM)
    report = affinity.bind(gpu=0, host=fake.host, settings=Settings(strategies=("libnuma",)))
    assert [str(call.arguments[1]) for call in fake.kernel.log if call.name == "set_affinity"] == ["0-3", "0-7", "0-3"]
    assert report.requested is not None
    assert report.observed.policy == MemoryPolicy()
