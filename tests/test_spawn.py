"""Workers that `multiprocessing` starts: bound from birth, nothing left behind, other threads untouched."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import spawn as mp_spawn
from pathlib import Path

import pytest

import affinity
from affinity import BindError, Host, Settings
from affinity.kernel.linux import LinuxKernel
from affinity.policies import Placement

HERE = os.sched_getaffinity(0)
spawn = multiprocessing.get_context("spawn")


def observe(queue: object, arguments: dict[str, object]) -> None:
    """What the worker sees before and after it binds itself."""
    from affinity.kernel.linux import THIS_PROCESS

    born, environ = (str(THIS_PROCESS.get_affinity()), str(THIS_PROCESS.get_mempolicy())), dict(os.environ)
    report = affinity.bind(**arguments)  # type: ignore[arg-type]
    now = (str(THIS_PROCESS.get_affinity()), str(THIS_PROCESS.get_mempolicy()))
    queue.put((born, report.already_bound, now, report.strategy, sys.orig_argv, environ))  # type: ignore[attr-defined]


def start(settings: Settings | None = None, context=spawn, child: object = None):  # type: ignore[no-untyped-def]
    """Start a worker inside `spawning(node=0)`; what it saw, and the plan. child: arguments of the worker's `bind`."""
    queue = context.SimpleQueue()
    worker = context.Process(target=observe, args=(queue, child or {}))
    with affinity.spawning(node=0, settings=settings) as planned:
        worker.start()
    seen = queue.get()
    worker.join(20)
    assert worker.exitcode == 0
    return seen, planned


@pytest.mark.parametrize("strategy", ["numactl", "inherit"])
def test_a_worker_is_born_bound_and_finds_it(strategy: str) -> None:
    """Mask and policy hold before its first line; `bind()` without arguments finds nothing left to do."""
    born, already, now, *_ = start(Settings(strategies=(strategy,)))[0]
    assert born == now == (str(affinity.CpuSet(HERE)), "preferred:0")
    assert already


def test_a_worker_born_unbound_is_bound_in_process() -> None:
    """`noop` around the start: the worker takes its parent's settings, and its own over them."""
    born, already, now, strategy, *_ = start(Settings(strategies=("noop",)))[0]
    assert (born, strategy) == (now, "noop")
    born, already, now, strategy, *_ = start(Settings(strategies=("noop",)), child={"settings": Settings()})[0]
    assert born[1] == "default"
    assert (now[1], already, strategy) == ("preferred:0", False, "libnuma")


def test_the_environment_and_the_executable_are_untouched() -> None:
    """During, after, and in the worker."""
    before = dict(os.environ)
    executable = mp_spawn.get_executable()
    seen, _ = start()
    by_readline = {"COLUMNS", "LINES"}  # set by GNU readline where a process of the test runner imports it
    assert dict(os.environ) == before
    assert {k: v for k, v in seen[5].items() if k not in by_readline} == {
        k: v for k, v in before.items() if k not in by_readline
    }
    assert mp_spawn.get_executable() == executable


def test_no_file_is_written(tmp_path: Path) -> None:
    """Neither in the temporary folder nor in the current one."""
    text = textwrap.dedent(
        """
        import multiprocessing, affinity, os
        if __name__ == "__main__":
            with affinity.spawning(node=0):
                p = multiprocessing.get_context("spawn").Process(target=os.getpid); p.start()
            p.join(); raise SystemExit(p.exitcode)
        """
    )
    subprocess.run(
        [sys.executable, "-B", "-c", text],
        check=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert list(tmp_path.iterdir()) == []


def test_a_python_whose_path_has_spaces(tmp_path: Path) -> None:
    """No shell takes the command apart."""
    place = tmp_path / "a folder (with) $pace's"
    place.mkdir()
    (place / "python").symlink_to(sys.executable)
    config = Path(sys.executable).parent.parent / "pyvenv.cfg"
    if config.exists():
        (tmp_path / "pyvenv.cfg").write_text(config.read_text())
        (tmp_path / "lib").symlink_to(config.parent / "lib")
        place.rename(tmp_path / "bin x")
        place = tmp_path / "bin x"
    before = mp_spawn.get_executable()
    mp_spawn.set_executable(str(place / "python"))
    try:
        seen, _ = start()
    finally:
        mp_spawn.set_executable(before)
    assert seen[0][1] == "preferred:0"
    assert seen[4][0] == str(place / "python")


def test_a_temporary_folder_mounted_noexec(tmp_path: Path) -> None:
    """The server hung for ever on a wrapper script there; there is no script here."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs root and mount namespaces")
    text = textwrap.dedent(
        """
        import multiprocessing, affinity, os, tempfile
        if __name__ == "__main__":
            with affinity.spawning(node=0) as planned:
                p = multiprocessing.get_context("spawn").Process(target=os.getpid); p.start()
            p.join(20); print(tempfile.gettempdir(), planned.selection.strategy, p.exitcode)
        """
    )
    script = tmp_path / "server.py"
    script.write_text(text)
    mount = f"mkdir {tmp_path}/t && mount -t tmpfs -o noexec none {tmp_path}/t && TMPDIR={tmp_path}/t exec "
    command = ["unshare", "-m", "sh", "-c", mount + f"'{sys.executable}' '{script}'"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [f"{tmp_path}/t", "numactl", "0"]


def test_ld_preload_reaches_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """As allocators are loaded in production."""
    monkeypatch.setenv("LD_PRELOAD", "libnuma.so.1")
    seen, planned = start()
    assert planned.selection.strategy == "numactl"
    assert seen[5]["LD_PRELOAD"] == "libnuma.so.1"


def test_parallel_starts_each_get_their_own_command() -> None:
    """Two threads that start two workers at once, each in its own block; and one that is in none."""
    barrier = threading.Barrier(3)
    got: dict[str, list[str]] = {}

    def work(name: str, block: AbstractContextManager[object]) -> None:
        queue = spawn.SimpleQueue()
        worker = spawn.Process(target=observe, args=(queue, {"node": 0}))
        with block:
            barrier.wait(20)
            worker.start()
            barrier.wait(20)
        got[name] = queue.get()[4]
        worker.join(20)

    blocks = {s: affinity.spawning(node=0, settings=Settings(strategies=(s,))) for s in ("numactl", "inherit")}
    threads = [threading.Thread(target=work, args=item) for item in [*blocks.items(), ("none", nullcontext())]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    reported = {name: next((a for a in argv if a.startswith("affinity=")), "") for name, argv in got.items()}
    assert {name: ("strategy=" + name in text) for name, text in reported.items()} == {
        "numactl": True,
        "inherit": True,
        "none": False,
    }
    assert reported["none"] == ""


@pytest.mark.parametrize("strategy", ["numactl", "inherit"])
def test_the_resource_tracker_is_not_bound(python, strategy: str) -> None:  # type: ignore[no-untyped-def]
    """It outlives the worker and serves the parent: it keeps the parent's policy."""
    text = textwrap.dedent(
        """
        import multiprocessing, os, sys, affinity
        from multiprocessing import resource_tracker
        if __name__ == "__main__":
            with affinity.spawning(node=0, settings=affinity.Settings(strategies=(sys.argv[1],))):
                p = multiprocessing.get_context("spawn").Process(target=os.getpid); p.start()
            p.join()
            command = open(f"/proc/{resource_tracker._resource_tracker._pid}/cmdline").read()
            maps = open(f"/proc/{resource_tracker._resource_tracker._pid}/numa_maps").read()
            print("numactl" in command, "affinity=" in command, "prefer" in maps)
        """
    )
    assert python(text, strategy).stdout.split() == ["False", "False", "False"]


def test_inherit_serves_fork() -> None:
    """A forked worker inherits from the thread that forks it."""
    fork = multiprocessing.get_context("fork")
    born, already, *_ = start(Settings(strategies=("inherit",)), context=fork)[0]
    assert (born[1], already) == ("preferred:0", True)


def test_a_forked_worker_finds_which_it_is(tmp_path: Path) -> None:
    """As a spawned one does: it does not take the GPUs of all for its own. One started outside is reported nothing."""
    text = """
import attrs, multiprocessing, os, affinity
def work():
    report = affinity.bind()
    print(report.launch.mode.value, len(report.launch.gpus), report.already_bound, flush=True)
if __name__ == "__main__":
    settings = affinity.Settings.from_environ(os.environ)
    for strategy, method in ("numactl", "spawn"), ("inherit", "spawn"), ("inherit", "fork"):
        p = multiprocessing.get_context(method).Process(target=work)
        with affinity.spawning(gpu=1, settings=attrs.evolve(settings, strategies=(strategy,))): p.start()
        p.join()
    p = multiprocessing.get_context("fork").Process(target=work); p.start(); p.join()
"""
    script = tmp_path / "worker.py"
    script.write_text(text)
    environ = {**os.environ, "AFFINITY_NODES": "0,0,0", "AFFINITY_DEVICES": "pci"}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["spawn 1 True"] * 3 + ["spawn 3 False"]


def test_a_fork_of_a_spawned_worker_is_passed_nothing(tmp_path: Path) -> None:
    """It inherits the interpreter's `-X` options of its parent, which are not for it; nor is its parent's block."""
    text = """
import multiprocessing, affinity
from affinity.handoff import Handoff
from affinity.kernel.linux import THIS_PROCESS
def work():
    print(Handoff.received(THIS_PROCESS) is not None, flush=True)
    p = multiprocessing.get_context("fork").Process(target=look); p.start(); p.join()
def look(): print(Handoff.received(THIS_PROCESS) is not None, flush=True)
if __name__ == "__main__":
    with affinity.spawning(node=0):
        for method in "spawn", "fork":
            p = multiprocessing.get_context(method).Process(target=work); p.start(); p.join()
"""
    script = tmp_path / "worker.py"
    script.write_text(text)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", "False"] * 2


def test_a_subprocess_started_in_the_block_is_not_bound() -> None:
    """`affinity run` is for it; the thread that starts workers is as it was all the time."""
    look = (
        "from affinity.kernel.linux import THIS_PROCESS\n"
        "print(THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy())"
    )
    with affinity.spawning(node=0, settings=Settings(strategies=("inherit",))):
        inside = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60)
    assert inside.stdout == f"{affinity.CpuSet(HERE)} default\n"


def test_inherit_gives_back_under_a_debuggers_trace(tmp_path: Path) -> None:
    """A trace function sees every line of a start."""
    from affinity.kernel.linux import THIS_PROCESS

    def trace(frame: object, event: str, argument: object) -> object:
        return trace

    before = (THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy())
    kept = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        seen, _ = start(Settings(strategies=("inherit",)))
    finally:
        sys.settrace(kept)
    assert seen[0][1] == "preferred:0"
    assert (THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy()) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("strategy", ["numactl", "inherit"])
def test_the_parent_is_as_it_was_when_the_block_raises(strategy: str, error: type[BaseException]) -> None:
    """Mask and policy."""
    from affinity.kernel.linux import THIS_PROCESS

    before = (THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy())
    with pytest.raises(error), affinity.spawning(node=0, settings=Settings(strategies=(strategy,))):
        raise error
    assert (THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy()) == before


def test_killing_the_parent_inside_the_block_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL: no file, no process."""
    text = textwrap.dedent(
        """
        import multiprocessing, affinity, time, os
        if __name__ == "__main__":
            with affinity.spawning(node=0):
                p = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0.1,)); p.start()
                print(p.pid, flush=True); time.sleep(60)
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-B", "-c", text],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    assert parent.stdout is not None
    int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    deadline = time.monotonic() + 20
    while _members(parent.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _members(parent.pid) == []
    assert list(tmp_path.iterdir()) == []


def _members(session: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for name in os.listdir("/proc"):
        try:
            fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split() if name.isdigit() else []
        except OSError:
            continue
        if fields and int(fields[3]) == session and fields[0] != "Z":
            found.append(int(name))
    return found


def fake_numactl(folder: Path, body: str) -> Host:
    """This machine, with another numactl on PATH."""
    program = folder / "numactl"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)

    class Other(LinuxKernel):
        @property
        def environ(self) -> dict[str, str]:
            return {"PATH": f"{folder}:/usr/bin:/bin"}

    return Host.live(Other())


def test_a_numactl_that_refuses_is_quoted_and_not_used(tmp_path: Path) -> None:
    """Its own message is carried; the worker is started by the next strategy."""
    host = fake_numactl(tmp_path, "echo 'libnuma: Warning: cannot parse' >&2; exit 1")
    with affinity.spawning(node=0, host=host) as planned:
        pass
    assert planned.selection.strategy == "inherit"
    assert "exit status 1: libnuma: Warning: cannot parse" in planned.selection.reason


def test_under_required_a_refusal_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    """Where numactl alone is named."""
    host = fake_numactl(tmp_path, "exit 7")
    settings = Settings(strategies=("numactl",), required=True)
    with pytest.raises(BindError, match="exit status 7"), affinity.spawning(node=0, settings=settings, host=host):
        raise AssertionError("the block must not be entered")


def test_a_numactl_that_fails_after_its_check_succeeded_ends_the_worker(tmp_path: Path) -> None:
    """The worker's exit status shows; nothing hangs."""
    host = fake_numactl(tmp_path, f"[ -e {tmp_path}/probed ] && exit 9; touch {tmp_path}/probed")
    worker = spawn.Process(target=os.getpid)
    with affinity.spawning(node=0, host=host):
        worker.start()
    worker.join(20)
    assert worker.exitcode == 9


def test_the_command_that_is_checked_is_the_command_that_runs(tmp_path: Path) -> None:
    """The same numactl, the same options, the same interpreter."""
    host = fake_numactl(
        tmp_path, f'echo "$@" >> {tmp_path}/log; while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
    )
    worker = spawn.Process(target=os.getpid)
    with affinity.spawning(node=0, host=host):
        worker.start()
    worker.join(20)
    assert worker.exitcode == 0
    check, real = (line.split() for line in (tmp_path / "log").read_text().splitlines())
    assert check[: check.index("--") + 2] == real[: real.index("--") + 2]


def test_a_thread_that_is_lent_a_placement_is_not_mistaken_for_one_with_a_limit() -> None:
    """While one thread starts a worker by inheritance, another one plans: with all that is allowed."""
    from affinity.kernel.linux import THIS_PROCESS
    from affinity.strategies import thread_placed

    narrow = Placement(affinity.CpuSet([min(HERE)]), None)
    found: list[affinity.CpuSet] = []
    with thread_placed(narrow, THIS_PROCESS):
        thread = threading.Thread(target=lambda: found.append(Host.live().allowed_cpus))
        thread.start()
        thread.join(20)
        found.append(Host.live().allowed_cpus)
    assert found == [affinity.CpuSet(HERE)] * 2


def test_a_bind_waits_for_a_start_by_inheritance_and_a_start_for_a_bind(python) -> None:  # type: ignore[no-untyped-def]
    """The thread's own mask is back before its process is bound, and undo gives it that one."""
    text = """
import os, threading, affinity
from affinity import CpuSet, Settings
from affinity.kernel.linux import THIS_PROCESS
from affinity.policies import Placement
from affinity.strategies import thread_placed
FIRST, LAST = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
settings = Settings(policy="explicit", cpus=(CpuSet([LAST]),), nodes=(0,), devices=("pci",))
inside, leave, reports = threading.Event(), threading.Event(), []
def start():
    with thread_placed(Placement(CpuSet([FIRST]), None), THIS_PROCESS):
        inside.set(); leave.wait(0.3)
    leave.wait()
starter = threading.Thread(target=start); starter.start(); inside.wait()
report = affinity.bind(settings=settings)
print({str(THIS_PROCESS.get_affinity(t)) for t in THIS_PROCESS.threads()} == {str(LAST)})
report.undo()
print({str(THIS_PROCESS.get_affinity(t)) for t in THIS_PROCESS.threads()} == {str(CpuSet(os.sched_getaffinity(0)))})
leave.set()
"""
    assert python(text).stdout.split() == ["True", "True"]


def test_workers_of_loky_are_bound_before_their_target(tmp_path: Path) -> None:
    """Its start method is its own: in a block they bind themselves, `affinity.get_context` starts them bound."""
    text = """
import os, affinity
from affinity import CpuSet, Settings
from loky import ProcessPoolExecutor
FIRST = min(os.sched_getaffinity(0))
settings = Settings(policy="explicit", cpus=(CpuSet([FIRST]),), nodes=(0,), devices=("pci",))
def look(): return os.sched_getaffinity(0) == {FIRST}, affinity.bind().already_bound, os.sched_getaffinity(0) == {FIRST}
if __name__ == "__main__":
    with affinity.spawning(settings=settings), ProcessPoolExecutor(1) as pool:
        print(*pool.submit(look).result())
    with ProcessPoolExecutor(1, context=affinity.get_context("spawn", settings=settings)) as pool:
        print(*pool.submit(look).result())
"""
    script = tmp_path / "pool.py"
    script.write_text(text)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["True True True", "True True True"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("body", "strategy"), [("exit 1", "inherit"), (f'exec {shutil.which("numactl")} "$@"', "numactl")]
)
def test_under_ignored_sigchld_a_worker_is_started_by_what_works(
    body: str, strategy: str, tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """A numactl that fails is not used though its exit status is lost; one that works is. The worker is born bound."""
    fake_numactl(tmp_path, body)
    done = python(
        "import multiprocessing, signal, sys, affinity\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "show = 'import affinity.kernel.linux as k; open(file, \"w\").write(str(k.THIS_PROCESS.get_mempolicy()))'\n"
        "worker = multiprocessing.get_context('spawn').Process(target=exec, args=(show, {'file': sys.argv[1]}))\n"
        "with affinity.spawning(node=0) as planned:\n"
        "    worker.start()\n"
        "worker.join(30)\n"
        "print(planned.selection.strategy)",
        str(tmp_path / "reported"),
        PATH=f"{tmp_path}:{os.environ['PATH']}",
    )
    assert done.stdout == f"{strategy}\n"
    assert (tmp_path / "reported").read_text() == "preferred:0"


def again(queue: object, cpu: int) -> None:
    """A worker that moves itself, and then calls `bind()` once more, also with its true launch mode."""
    from affinity.kernel.linux import THIS_PROCESS

    last = affinity.CpuSet([cpu])
    moved = Settings(policy="explicit", cpus=(last, last), nodes=(0, 0), devices=("pci",))
    seen = []
    for arguments in ({"gpu": 1, "settings": moved}, {"settings": moved}, {"settings": moved, "launch_mode": "spawn"}):
        report = affinity.bind(**arguments)  # type: ignore[arg-type]
        seen.append((str(THIS_PROCESS.get_affinity()), [str(gpu) for gpu in report.launch.gpus]))
    queue.put(seen)  # type: ignore[attr-defined]


def test_a_worker_that_binds_elsewhere_stays_there() -> None:
    """Its own bind has precedence over what its parent passed to it, and the mode it names changes nothing."""
    first = affinity.CpuSet([min(HERE)])
    placed = Settings(policy="explicit", cpus=(first, first), nodes=(0, 0), devices=("pci",))
    queue = spawn.SimpleQueue()
    worker = affinity.get_context("spawn", gpu=0, settings=placed).Process(target=again, args=(queue, max(HERE)))
    worker.start()
    seen = queue.get()
    worker.join(20)
    assert seen == [(str(max(HERE)), ["placeholder 1"])] * 3


class Starts:
    """An argument whose pickling starts another, plain process."""

    def __getstate__(self) -> dict[str, object]:
        queue = spawn.SimpleQueue()
        plain = spawn.Process(target=put_mask, args=(queue,))
        plain.start()
        PLAIN.append(queue.get())
        plain.join(20)
        return {}


PLAIN: list[str] = []


def put_mask(queue: object, _: object = None) -> None:
    from affinity.kernel.linux import THIS_PROCESS

    queue.put(str(THIS_PROCESS.get_affinity()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("strategy", ["numactl", "inherit"])
def test_a_process_that_is_started_while_a_worker_is_pickled_is_not_the_worker(strategy: str) -> None:
    """It starts as it is, and the worker bound."""
    first = affinity.CpuSet([min(HERE)])
    where: dict[str, object] = {"policy": "explicit", "cpus": (first,), "nodes": (0,), "devices": ("pci",)}
    context = affinity.get_context("spawn", settings=Settings(strategies=(strategy,), **where))  # type: ignore[arg-type]
    queue = context.SimpleQueue()
    worker = context.Process(target=put_mask, args=(queue, Starts()))
    worker.start()
    assert (queue.get(), PLAIN.pop()) == (str(first), str(affinity.CpuSet(HERE)))
    worker.join(20)


def test_a_context_of_another_method_and_one_inside_a_block_keep_their_placement() -> None:
    """`get_context(method)` of a bound context is bound as well, and a block around it changes nothing."""
    first, last = affinity.CpuSet([min(HERE)]), affinity.CpuSet([max(HERE)])
    where: dict[str, object] = {"policy": "explicit", "nodes": (0,), "devices": ("pci",)}
    for cpus, names in ((first, ()), (affinity.CpuSet(HERE), ("noop",))):
        settings = Settings(cpus=(first,), strategies=names, **where)  # type: ignore[arg-type]
        context = affinity.get_context("spawn", settings=settings)
        for method in ("spawn", "fork"):
            inner = context.get_context(method)
            queue = inner.SimpleQueue()
            worker = inner.Process(target=put_mask, args=(queue,))
            with affinity.spawning(settings=Settings(cpus=(last,), **where)):  # type: ignore[arg-type]
                worker.start()
            assert queue.get() == str(cpus)
            worker.join(20)


def test_a_policy_that_cannot_be_put_back_does_not_keep_the_mask() -> None:
    """Each part of the starting thread's state is restored by itself."""
    import errno

    from affinity.kernel import MemoryMode, MemoryPolicy
    from affinity.strategies import thread_placed
    from affinity.testing import FakeHost

    kernel = FakeHost("pack:2 core:4").kernel
    there = Placement(affinity.CpuSet.parse("4-7"), MemoryPolicy(MemoryMode.PREFERRED, affinity.NodeSet([1])))
    with thread_placed(there, kernel):
        kernel.refuse("set_mempolicy", errno.EPERM)
    assert {str(mask) for mask in kernel.masks.values()} == {"0-7"}
