"""`affinity.bind()` in real processes: threads, policies, twice, undone, refused. Each in a child of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import attrs
import pytest

import affinity
from affinity import CpuSet, Host, LaunchMode, Settings, UsageError
from affinity.kernel import MemoryMode
from affinity.kernel.linux import THIS_PROCESS
from affinity.policies import Placement
from affinity.report.observed import Observed
from affinity.testing import FakeHost
from affinity.topology import ForeignHostError
from affinity.topology.synthetic import load

TWO_CPUS = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="a narrower mask needs two CPUs; continuous integration has them"
)

#: Child programs start with this: eight threads that wait, and a way to see every mask.
HEAD = """
import os, threading, affinity
from affinity import CpuSet, Settings
from affinity.kernel.linux import THIS_PROCESS
stop = threading.Event()
threads = [threading.Thread(target=stop.wait, daemon=True) for _ in range(8)]
for t in threads: t.start()
FIRST, LAST = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
ALL = CpuSet(os.sched_getaffinity(0))
def mask(tid):
    try: return str(THIS_PROCESS.get_affinity(tid))
    except ProcessLookupError: return None
def masks(): return {mask(t) for t in THIS_PROCESS.threads()} - {None}
def to(cpu, **more):
    return Settings(policy="explicit", cpus=(CpuSet([cpu]),), nodes=(0,), devices=("pci",), **more)
"""


def child(python, text: str, **environ: str) -> list[str]:  # type: ignore[no-untyped-def]
    """Run HEAD and the text; the lines it printed."""
    done = python(HEAD + textwrap.dedent(text), **environ)
    return [line for line in done.stdout.splitlines() if line]


@TWO_CPUS
def test_every_thread_is_bound_and_later_ones_too(python) -> None:  # type: ignore[no-untyped-def]
    """Those that run already, those started after, and the memory policy of the caller."""
    out = child(
        python,
        """
        report = affinity.bind(settings=to(FIRST))
        later = threading.Thread(target=stop.wait, daemon=True); later.start()
        print(masks() == {str(FIRST)}, report.outcome.bound, report.unbound_threads, report.satisfied, report.strategy)
        print(report.observed.policy, report.local_share, not report.degradations, 0 < report.age < 60)
        """,
    )
    assert out == ["True 9 0 True libnuma", "preferred:0 1.0 True True"]


@TWO_CPUS
@pytest.mark.parametrize("memory", ["BIND", "INTERLEAVE", "PREFERRED", "LOCAL"])
def test_a_policy_that_other_threads_cannot_be_given_is_reported(python, memory: str) -> None:  # type: ignore[no-untyped-def]
    """Each thread can set only its own. First touch on their new CPUs is what `preferred` asks for; no other mode."""
    out = child(
        python,
        f"""
        from affinity.kernel import MemoryMode, MemoryPolicy
        report = affinity.bind(settings=to(FIRST, memory=MemoryMode.{memory}))
        print(report.satisfied, [d.error for d in report.degradations])
        affinity.bind(settings=to(FIRST, memory=None)).undo()
        THIS_PROCESS.set_mempolicy(MemoryPolicy())
        again = affinity.bind(settings=to(FIRST, memory=MemoryMode.{memory}, strategies=("libnuma",)))
        print(again.outcome.bound, [d.error for d in again.degradations])
        """,
    )
    printed = "a thread can set only its own policy: 8 started before the bind allocate next to their CPUs"
    reported = [printed] if memory in ("BIND", "INTERLEAVE") else []
    assert out == [f"True {reported}", f"0 {reported}"], "also where every mask was right before"


@TWO_CPUS
def test_threads_pinned_by_another_else_are_left_alone(python) -> None:  # type: ignore[no-untyped-def]
    """And counted, and reported."""
    out = child(
        python,
        """
        os.sched_setaffinity(threads[3].native_id, {LAST})
        report = affinity.bind(settings=to(FIRST))
        print(report.outcome.bound, report.outcome.skipped, report.unbound_threads)
        print("unchanged: 1 of 9 threads may run on other CPUs" in str(report))
        print(sorted(masks()) == [str(FIRST), str(LAST)])
        """,
    )
    assert out == ["8 1 1", "True", "True"]


@TWO_CPUS
def test_a_thread_that_the_kernel_keeps_is_reported_and_the_others_are_bound(python) -> None:  # type: ignore[no-untyped-def]
    """As io_uring's are kept; where binding is required it is an error, and every thread is where it was."""
    out = child(
        python,
        """
        import errno
        from affinity.kernel.linux import LinuxKernel
        class Keeping(LinuxKernel):
            def set_affinity(self, tid, cpus):
                if tid == threads[3].native_id: raise OSError(errno.EINVAL, "Invalid argument", "sched_setaffinity")
                super().set_affinity(tid, cpus)
        host = affinity.Host.live(Keeping())
        try: affinity.bind(settings=to(FIRST, required=True), host=host)
        except affinity.BindError as refused: print("bind every thread" in str(refused), masks() == {str(ALL)})
        report = affinity.bind(settings=to(FIRST), host=host)
        print(report.strategy, report.satisfied, report.outcome.bound, report.unbound_threads)
        print([(d.action, d.errno) for d in report.degradations])
        """,
    )
    assert out == ["True True", "libnuma False 8 1", "[('bind every thread', 'EINVAL')]"]


@TWO_CPUS
def test_binding_twice_is_binding_once_and_another_gpu_binds_anew(python) -> None:  # type: ignore[no-untyped-def]
    """What counts is what was allowed before the first bind."""
    out = child(
        python,
        """
        reports = [affinity.bind(settings=to(FIRST)) for _ in range(10)]
        print([r.already_bound for r in reports] == [False] + [True] * 9)
        report = affinity.bind(settings=to(LAST))
        print(masks() == {str(LAST)}, report.satisfied, report.already_bound)
        """,
    )
    assert out == ["True", "True True False"]


@TWO_CPUS
def test_undo_goes_back_step_by_step(python) -> None:  # type: ignore[no-untyped-def]
    """Each report's undo to the state before its own bind; `restored()` to that before the block."""
    out = child(
        python,
        """
        with affinity.restored():
            one = affinity.bind(settings=to(FIRST)); two = affinity.bind(settings=to(LAST))
            two.undo(); print(masks() == {str(FIRST)}, f";cpus={FIRST};" in os.environ["AFFINITY_BOUND"])
            one.undo(); print(masks() == {str(ALL)}, "AFFINITY_BOUND" in os.environ, THIS_PROCESS.get_mempolicy())
            affinity.bind(settings=to(LAST))
        print(masks() == {str(ALL)}, THIS_PROCESS.get_mempolicy(), "AFFINITY_BOUND" in os.environ)
        """,
    )
    assert out == ["True True", "True False default", "True default False"]


@pytest.fixture
def _own_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "dists" / "own_calls"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.usefixtures("_own_calls")
def test_undo_restores_the_variables_that_a_strategy_set() -> None:
    """Not one that was set to another value since."""
    fake = FakeHost("pack:2 core:4 gpu:1", environ={"ACME_SET": "0"})
    report = affinity.bind(gpu=1, host=fake.host, settings=Settings(strategies=("own-variables",)))
    assert fake.kernel.environ["ACME_NEW"] == fake.kernel.environ["ACME_SET"] == "1"
    fake.kernel.environ.update(ACME_LATER="2", OTHER="3")
    report.undo()
    left = {name: text for name, text in fake.kernel.environ.items() if name != "PATH"}
    assert left == {"ACME_SET": "0", "ACME_LATER": "2", "OTHER": "3"}


@pytest.mark.usefixtures("_own_calls")
def test_a_strategy_that_is_refused_leaves_no_variable() -> None:
    """The next attempt starts from the same state."""
    fake = FakeHost("pack:2 core:4 gpu:1")
    settings = Settings(strategies=("own-variables",), memory=MemoryMode.BIND)
    report = affinity.bind(gpu=1, host=fake.host, settings=settings)
    assert report.strategy == "own-variables"
    assert "ACME_REFUSED" not in fake.kernel.environ
    assert fake.kernel.environ["ACME_NEW"] == "1"


@TWO_CPUS
def test_undo_from_another_thread_is_refused(python) -> None:  # type: ignore[no-untyped-def]
    """A memory policy belongs to its thread."""
    out = child(
        python,
        """
        report = affinity.bind(settings=to(FIRST))
        def work():
            try: report.undo()
            except affinity.UsageError as refused: print("cannot undo it" in str(refused))
        t = threading.Thread(target=work); t.start(); t.join()
        print(masks() == {str(FIRST)})
        """,
    )
    assert out == ["True", "True"]


@TWO_CPUS
def test_two_threads_that_bind_at_once(python) -> None:  # type: ignore[no-untyped-def]
    """One after the other: the end is one of the two, in every thread."""
    out = child(
        python,
        """
        def work(cpu):
            for _ in range(20): affinity.bind(settings=to(cpu))
        pair = [threading.Thread(target=work, args=(c,)) for c in (FIRST, LAST)]
        for t in pair: t.start()
        for t in pair: t.join()
        print(len(masks()), masks() <= {str(FIRST), str(LAST)})
        """,
    )
    assert out == ["1 True"]


@TWO_CPUS
def test_while_threads_start_and_end(python) -> None:  # type: ignore[no-untyped-def]
    """No thread escapes, neither the bind nor the undo, and one that ends between listing and binding does no harm."""
    out = child(
        python,
        """
        running = True
        def breed():
            while running:
                t = threading.Thread(target=lambda: None); t.start(); t.join()
        breeders = [threading.Thread(target=breed, daemon=True) for _ in range(20)]
        for t in breeders: t.start()
        report = affinity.bind(settings=to(FIRST))
        found = [masks() for _ in range(20)]
        report.undo()
        after = [masks() for _ in range(20)]
        running = False
        for t in breeders: t.join()
        print(all(m == {str(FIRST)} for m in found), all(m == {str(ALL)} for m in after))
        """,
    )
    assert out == ["True True"]


@TWO_CPUS
def test_a_process_of_two_thousand_threads(python) -> None:  # type: ignore[no-untyped-def]
    """All of them."""
    out = child(
        python,
        """
        threading.stack_size(65536)
        for _ in range(2000): threading.Thread(target=stop.wait, daemon=True).start()
        report = affinity.bind(settings=to(FIRST))
        print(report.outcome.bound, masks() == {str(FIRST)})
        """,
    )
    assert out == ["2009 True"]


@TWO_CPUS
def test_a_fork_of_a_bound_process_finds_it(python) -> None:  # type: ignore[no-untyped-def]
    """Nothing to do for the same GPU; another one is reached from the mask before."""
    out = child(
        python,
        """
        affinity.bind(settings=to(FIRST))
        pid = os.fork()
        if pid == 0:
            same = affinity.bind(settings=to(FIRST)).already_bound
            other = affinity.bind(settings=to(LAST)).satisfied
            print(same, other, masks() == {str(LAST)}, flush=True); os._exit(0)
        os.waitpid(pid, 0)
        print(masks() == {str(FIRST)})
        """,
    )
    assert out == ["True True True", "True"]


#: An engine core, bound to one place, starts a worker for another in each of four ways.
ENGINE = (
    HEAD
    + """
import multiprocessing, subprocess, sys
def work():
    report = affinity.bind(gpu=0, settings=to(LAST_OF_ALL))
    print(os.sched_getaffinity(0) == {LAST_OF_ALL}, report.satisfied, report.already_bound, flush=True)
LAST_OF_ALL = int(sys.argv[2])
if __name__ == "__main__":
    if sys.argv[1] == "worker":
        work(); sys.exit()
    affinity.bind(settings=to(FIRST))
    process = multiprocessing.get_context("spawn").Process(target=work)
    if sys.argv[1] == "context":
        process = affinity.get_context("spawn", gpu=0, settings=to(LAST_OF_ALL)).Process(target=work)
        process.start(); process.join()
    elif sys.argv[1] == "spawning":
        with affinity.spawning(gpu=0, settings=to(LAST_OF_ALL)): process.start()
        process.join()
    elif sys.argv[1] == "spawn":
        process.start(); process.join()
    else:
        prefix = ["taskset", "-c", str(FIRST)] if sys.argv[1] == "taskset" else []
        subprocess.run([*prefix, sys.executable, __file__, "worker", sys.argv[2]], check=True)
"""
)


@TWO_CPUS
@pytest.mark.parametrize(("start", "born_bound"), [("context", True), ("spawning", True), ("spawn", False)])
def test_a_worker_of_a_bound_process_gets_its_own_place(tmp_path: Path, start: str, born_bound: bool) -> None:
    """The CPUs that its parent was bound to are not a limit for what multiprocessing starts."""
    assert engine(tmp_path, start).stdout == f"True True {born_bound}\n"


@TWO_CPUS
@pytest.mark.parametrize("start", ["taskset", "subprocess"])
def test_the_mask_of_a_bound_parent_is_a_limit_for_another_program(tmp_path: Path, start: str) -> None:
    """`taskset` with the very CPUs of the parent is a limit of the operator, and looks as no taskset does."""
    done = engine(tmp_path, start)
    assert done.stdout == "False False False\n"
    assert f"of which {max(os.sched_getaffinity(0))} are not allowed here" in done.stderr
    assert "start workers by affinity.get_context()" in done.stderr


def engine(folder: Path, start: str) -> subprocess.CompletedProcess[str]:
    """Run ENGINE; the worker states whether it is where it should be."""
    script = folder / "engine.py"
    script.write_text(ENGINE)
    command = [sys.executable, str(script), start, str(max(os.sched_getaffinity(0)))]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)


@TWO_CPUS
def test_a_limit_set_after_the_bind_is_a_limit(python) -> None:  # type: ignore[no-untyped-def]
    """A later taskset on the bound process is the operator's word."""
    out = child(
        python,
        """
        affinity.bind(settings=to(FIRST))
        for t in THIS_PROCESS.threads(): os.sched_setaffinity(t, {LAST})
        print(affinity.plan(node=0).placement.cpus == CpuSet([LAST]))
        """,
    )
    assert out == ["True"]


@TWO_CPUS
@pytest.mark.parametrize(
    ("prefix", "strategy"), [(("taskset", "-c", "0"), "libnuma"), (("numactl", "-C", "0"), "libnuma")]
)
def test_a_narrowed_mask_is_never_widened(python, prefix: tuple[str, ...], strategy: str) -> None:  # type: ignore[no-untyped-def]
    """Under taskset or numactl the node's CPUs are those that are left."""
    text = "import affinity, os; r = affinity.bind(node=0); print(os.sched_getaffinity(0), r.strategy, r.satisfied)"
    assert python(text, prefix=prefix).stdout == f"{{0}} {strategy} True\n"


def test_bound_from_outside_is_left_alone(python) -> None:  # type: ignore[no-untyped-def]
    """`numactl --interleave=all` in front of the server is the operator's word."""
    text = "import affinity; r = affinity.bind(node=0); print(r.strategy, r.observed.policy); print(r.reason)"
    out = python(text, prefix=("numactl", "--interleave=all")).stdout.splitlines()
    assert out == ["noop interleave:0", "already bound from outside: memory policy interleave:0 is in force"]


@pytest.mark.parametrize(
    ("memory", "policy"),
    [
        ("preferred", "preferred:0"),
        ("bind", "bind:0"),
        ("interleave", "interleave:0"),
        ("local", "local"),
        ("none", "default"),
    ],
)
def test_the_memory_the_operator_asks_for(python, memory: str, policy: str) -> None:  # type: ignore[no-untyped-def]
    """Read back from the kernel."""
    text = "import affinity; r = affinity.bind(node=0); print(r.observed.policy, r.satisfied)"
    assert python(text, AFFINITY_MEMORY=memory).stdout == f"{policy} True\n"


def test_legacy_binds_the_calling_thread_alone(python) -> None:  # type: ignore[no-untyped-def]
    """As the first generation did; chosen by its flag, reported for what it is."""
    out = child(
        python,
        """
        from affinity import Settings
        settings = Settings(policy="explicit", cpus=(CpuSet([FIRST]),), nodes=(0,), devices=("pci",), v2=False)
        report = affinity.bind(settings=settings)
        left = 8 if len(ALL) > 1 else 0
        print(report.strategy, report.outcome.bound, report.satisfied, report.unbound_threads == left)
        """,
    )
    assert out == ["legacy 1 True True"]


def test_a_rank_beyond_the_gpus_is_next_to_all_of_them() -> None:
    """Sixty-four ranks of MPI on a machine of eight GPUs: with the way out, and no error."""
    from affinity.testing import FakeHost

    ranks = {"OMPI_COMM_WORLD_SIZE": "64", "OMPI_COMM_WORLD_LOCAL_RANK": "9", "OMPI_COMM_WORLD_LOCAL_SIZE": "64"}
    host = FakeHost("dgx-h100", environ=ranks).host
    report = affinity.bind(host=host)
    assert report.satisfied
    assert report.requested is not None
    assert report.requested.cpus == host.allowed_cpus
    assert "name its GPU (gpu=…)" in str(report)


def test_legacy_steps_down_to_the_one_node_it_finds() -> None:
    """Several preferred nodes are not of its time: reported as a step down."""
    from affinity.testing import FakeHost

    settings = affinity.Settings(v2=False)
    report = affinity.bind(gpu=(0, 4), host=FakeHost("dgx-h100").host, settings=settings)
    assert (report.strategy, str(report.observed.policy)) == ("legacy", "preferred:0")
    assert "sets one preferred node, not several" in str(report)


def test_without_libnuma_the_system_calls_do_it() -> None:
    """Automatic choice goes on, saying what to install; the named strategy is an error."""
    from affinity.kernel.linux import LinuxKernel

    class Bare(LinuxKernel):
        def libnuma_error(self) -> str:
            return "libnuma.so.1 cannot be loaded: apt-get install libnuma1"

    host = Host.live(Bare())
    planned = affinity.plan(node=0, launch_mode="ray", host=host)
    assert planned.selection.strategy == "inherit"
    assert "apt-get install libnuma1" in planned.selection.reason
    settings = affinity.Settings(strategies=("libnuma",))
    with pytest.raises(affinity.BindError, match="apt-get install libnuma1"):
        affinity.plan(node=0, launch_mode="ray", host=host, settings=settings)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"node": 7}, UsageError, "node 7 is not on this machine: online nodes are"),
        ({"gpu": "GPU-nothing"}, affinity.UnknownGpuError, "is not here"),
        ({"gpu": 3}, affinity.UnknownGpuError, "is not here"),
        ({"node": 0, "launch_mode": "command"}, UsageError, "affinity run"),
        ({"node": 0, "launch_mode": "nothing"}, UsageError, "expected one of"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    """An error of ours; the process is as it was."""
    before = THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy()
    with pytest.raises(error, match=message):
        affinity.bind(**arguments)  # type: ignore[arg-type]
    assert (THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy()) == before


def test_a_placement_that_is_impossible_is_reported() -> None:
    """The process is as it was. Under `required` it is an error."""
    before = THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy()
    settings = affinity.Settings(nodes=(0,), policy="explicit", cpus=(CpuSet([4000]),))
    report = affinity.bind(gpu=0, settings=settings)
    assert (report.strategy, report.satisfied) == ("noop", False)
    assert "CPUs 4000 to this worker, of which 4000 are not allowed here" in str(report)
    with pytest.raises(affinity.PlacementError, match="of which 4000 are not allowed here"):
        affinity.bind(gpu=0, settings=attrs.evolve(settings, required=True))
    assert (THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy()) == before


def test_a_topology_that_is_not_this_machine_never_binds_it() -> None:
    """Refused when the host is made, and when anything is called on it."""
    with pytest.raises(ForeignHostError, match="not this machine"):
        Host(load("numa:2"), THIS_PROCESS, CpuSet([0]), affinity.NodeSet([0]))
    for call in (affinity.bind, lambda **k: affinity.spawning(**k).__enter__()):
        with pytest.raises(ForeignHostError, match="not this machine"):
            call(gpu=0, host=Host.synthetic("numa:2 core:2 gpu:1"))


def test_modes_whose_process_runs_already_bind_in_process(python) -> None:  # type: ignore[no-untyped-def]
    """Each launch mode but `command` and `attach`, from the caller's word."""
    text = (
        "import sys, affinity; r = affinity.bind(node=0, launch_mode=sys.argv[1]); print(r.observed.policy, r.strategy)"
    )
    for mode in set(LaunchMode) - {LaunchMode.COMMAND, LaunchMode.ATTACH}:
        assert python(text, mode.value).stdout == "preferred:0 libnuma\n"


def test_the_report_states_what_the_kernel_states() -> None:
    """Masks of all threads, the policy, the pages: of this very process."""
    seen = Observed.read(THIS_PROCESS)
    assert {t: set(m) for t, m in seen.threads.items()} == {t: os.sched_getaffinity(t) for t in THIS_PROCESS.threads()}
    assert seen.resident is not None
    assert seen.local_share(Placement(None, None, affinity.NodeSet(seen.resident))) == 1.0


@TWO_CPUS
def test_to_leave_memory_alone_after_a_bind_takes_its_policy_back(python) -> None:  # type: ignore[no-untyped-def]
    """In this process, and in the workers that it starts. A policy from outside is not touched."""
    out = child(
        python,
        """
        import multiprocessing
        affinity.bind(settings=to(FIRST))
        print(THIS_PROCESS.get_mempolicy())
        def look(): print(THIS_PROCESS.get_mempolicy(), flush=True)
        for strategy in ("auto", "inherit"):
            names = () if strategy == "auto" else (strategy,)
            with affinity.spawning(settings=to(LAST, memory=None, strategies=names)):
                p = multiprocessing.get_context("fork").Process(target=look); p.start(); p.join()
        report = affinity.bind(settings=to(LAST, memory=None))
        print(THIS_PROCESS.get_mempolicy(), report.satisfied)
        report.undo()
        print(THIS_PROCESS.get_mempolicy())
        """,
    )
    assert out == ["preferred:0", "default", "default", "default True", "preferred:0"]


def test_memory_left_alone_under_a_policy_from_outside_stays_so(python) -> None:  # type: ignore[no-untyped-def]
    text = "import affinity; affinity.bind(node=0); print(affinity.plan(node=0).placement.memory)"
    assert python(text, prefix=("numactl", "--membind=0"), AFFINITY_MEMORY="none").stdout == "None\n"


@TWO_CPUS
def test_a_pinned_thread_that_binds_does_not_take_the_process_onto_its_cpu(python) -> None:  # type: ignore[no-untyped-def]
    """The limit is the mask of the process; undo gives the pinned thread its own CPU and the others all."""
    out = child(
        python,
        """
        def work():
            os.sched_setaffinity(0, {LAST})
            print(affinity.plan(node=0).placement.cpus == ALL)
            report = affinity.bind(settings=to(FIRST))
            print(masks() == {str(FIRST)}, report.satisfied)
            report.undo()
            print(mask(0) == str(LAST), masks() == {str(ALL), str(LAST)})
        t = threading.Thread(target=work); t.start(); t.join()
        """,
    )
    assert out == ["True", "True True", "True True"]


@TWO_CPUS
def test_a_thread_that_is_pinned_where_the_calling_thread_is_stays_there(python) -> None:  # type: ignore[no-untyped-def]
    """The calling thread's own mask is not the process's, so it does not show which threads to bind."""
    out = child(
        python,
        """
        os.sched_setaffinity(threads[3].native_id, {LAST})
        def work():
            os.sched_setaffinity(0, {LAST})
            report = affinity.bind(settings=to(FIRST))
            print(mask(threads[3].native_id) == str(LAST), report.outcome.bound, report.outcome.skipped)
        t = threading.Thread(target=work); t.start(); t.join()
        """,
    )
    assert out == ["True 9 1"]


@pytest.mark.parametrize("strategy", ["libnuma", "inherit"])
def test_the_flags_of_a_memory_policy_come_back(python, strategy: str) -> None:  # type: ignore[no-untyped-def]
    """MPOL_F_STATIC_NODES, by undo and by a start that lends the thread another policy."""
    text = f"""
import affinity
from affinity import NodeSet
from affinity.kernel import MemoryFlag, MemoryMode, MemoryPolicy
from affinity.kernel.linux import THIS_PROCESS
from affinity.kernel.procfs import mempolicy_of_maps
from affinity.policies import Placement
from affinity.strategies import thread_placed
static = MemoryPolicy(MemoryMode.BIND, NodeSet([0]), frozenset([MemoryFlag.STATIC_NODES]))
THIS_PROCESS.set_mempolicy(static)
print(THIS_PROCESS.get_mempolicy(), mempolicy_of_maps() == static)
with thread_placed(Placement(None, MemoryPolicy(MemoryMode.LOCAL)), THIS_PROCESS):
    print(THIS_PROCESS.get_mempolicy())
print(THIS_PROCESS.get_mempolicy())
with affinity.restored():
    affinity.bind(node=0, settings=affinity.Settings(strategies=("{strategy}",)))
    print(THIS_PROCESS.get_mempolicy())
print(THIS_PROCESS.get_mempolicy())
"""
    seen = ["bind=static:0", "True", "local", "bind=static:0", "preferred:0", "bind=static:0"]
    assert python(text).stdout.split() == seen
