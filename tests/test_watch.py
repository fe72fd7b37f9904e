"""`affinity watch` and `affinity attach --all` on real processes, on a machine with two GPUs in a mount namespace."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import driver
import pytest
import schemas
from commands import COMMAND, affinity, called
from mounted import GPU0, GPU1, Mounted, machine, mounted
from server import Server, build
from test_process import NAMESPACE, RealChild, as_user, choosing_pids
from test_ps import OTHER, OTHER_ID, PCI, Shell, nvml, read_until

from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.topology import NodeSet


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver.build(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("machine") / "root", machine(), library) as made:
        yield made


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The undo records of a test are its own."""
    path = tmp_path / "runtime"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


Start = Callable[..., Shell]


@pytest.fixture
def start(there: Mounted) -> Iterator[Start]:
    """Start a process that waits, with the files of these GPUs open: `start(0, prefix=("taskset", …))`."""
    with ExitStack() as ends:

        def started(*gpus: int, prefix: tuple[str, ...] = ()) -> Shell:
            shell = Shell.with_files(("/dev/nvidiactl", *map(there.file, gpus)), *there.prefix, *prefix)
            ends.callback(shell.end)
            return shell

        yield started


class Watching:
    """`affinity watch` on the machine; `lines`: of its stderr so far."""

    def __init__(self, there: Mounted, *arguments: str, prefix: tuple[str, ...] = (), **environ: str) -> None:
        command = [*there.prefix, *prefix, COMMAND, "watch", "--interval", "0.1", *arguments]
        env = {**os.environ, **PCI, **environ}
        self.running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.running.stderr is not None
        self.lines += [""]
        for line in self.running.stderr:
            self.lines.append(line.rstrip("\n"))

    def __enter__(self) -> Self:
        self.line("watching")
        return self

    def __exit__(self, *_: object) -> None:
        self.running.kill()
        self.running.wait()
        self._reader.join()

    def line(self, pattern: str, seconds: float = 20) -> str:
        """The first line with the pattern, as soon as there is one."""
        end = time.monotonic() + seconds
        while True:
            found = [line for line in self.lines if re.search(pattern, line)]
            if found:
                return found[0]
            assert time.monotonic() < end, self.lines
            time.sleep(0.01)

    def of(self, process: Shell | RealChild | Server) -> str:
        """The line of a process."""
        return self.line(rf"^affinity: process {process.pid} ")

    def count(self, process: Shell | RealChild | Server) -> int:
        return sum(f"process {process.pid} " in line for line in self.lines)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.running.send_signal(number)
        status = self.running.wait(timeout=60)
        self._reader.join()
        return status


def masks(pid: int) -> set[str]:
    """CPUs of every thread, from the status files."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found |= set(re.findall(r"Cpus_allowed_list:\t(.*)", (task / "status").read_text()))
    return found


def attach(there: Mounted, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [*there.prefix, COMMAND, "attach", *arguments]
    env = {**os.environ, **PCI, **environ}
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False, env=env
    )


# ---------------------------------------------------------------- what is bound


@pytest.mark.parametrize("shown_by", ["open files", "NVML"])
def test_a_process_that_comes_is_bound_within_a_second(
    there: Mounted, start: Start, library: Path, tmp_path: Path, shown_by: str
) -> None:
    """By default; one that was there before as well. Each has one line, also after many rounds."""
    first = start(0)
    environ, text = PCI, ""
    if shown_by == "NVML":
        environ = nvml(there, library, tmp_path / "driver", f"compute 0 {first.pid}")
        text = Path(environ["FAKE_NVML"]).read_text()
    with Watching(there, "--interval", "1", **environ) as watching:
        assert "watching 2 GPUs every 1 s, processes of user 0, policy node" in watching.line("watching")
        assert "bound by strategy external: CPUs 0" in watching.of(first)
        second = start(1)
        if text:
            Path(environ["FAKE_NVML"]).write_text(f"{text}compute 1 {second.pid}\n")
        began = time.monotonic()
        assert "CPUs 1" in watching.of(second)
        assert time.monotonic() - began < 2
        assert (masks(first.pid), masks(second.pid)) == ({"0"}, {"1"})
        time.sleep(2.5)
        assert (watching.count(first), watching.count(second)) == (1, 1)


def test_a_process_that_opens_its_gpu_later_is_bound_then(there: Mounted) -> None:
    """As most do, some seconds after they start."""
    child = RealChild(*there.prefix, handoff="")
    try:
        with Watching(there) as watching:
            time.sleep(0.5)
            child.start_thread()
            child.order("open", "/dev/nvidiactl")
            child.order("open", there.file(1))
            watching.of(child)
            assert masks(child.pid) == {"1"}
    finally:
        child.end()


def test_the_worker_of_a_bound_process_goes_to_its_own_gpu(there: Mounted) -> None:
    """It inherits the mask of the process that started it, which is no limit and no pin; --undo gives that back."""
    opened = f"exec 3<{there.file(0)}; read go; exec 4<{there.file(1)} 3<&-"
    script = f"{opened}; sleep 60 & echo $!; exec 4<&-; read end; kill $!"
    command, pipe = [*there.prefix, "sh", "-c", script], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as shell, Watching(there) as watching:
        assert shell.stdin is not None
        assert shell.stdout is not None
        watching.line(f"process {shell.pid} .* bound by")
        shell.stdin.write("\n")
        shell.stdin.flush()
        worker = int(shell.stdout.readline())
        watching.line(f"process {worker} .* by strategy external: CPUs 1")
        assert (masks(shell.pid), masks(worker)) == ({"0"}, {"1"})
        assert attach(there, "--undo", str(worker)).returncode == 0
        assert masks(worker) == {"0"}
        shell.communicate("\n")


def test_a_pid_given_to_another_process_is_bound_again(there: Mounted) -> None:
    """The second process of that PID is another one; what was kept of the first does not count."""
    text = f"""
import os, re, signal, subprocess, time
def start(pid):
    with open("/proc/sys/kernel/ns_last_pid", "w") as last: last.write(str(pid - 1))
    child = subprocess.Popen(["sh", "-c", "exec 3<{there.file(0)}; exec sleep 60"])
    assert child.pid == pid
    return child
watch = subprocess.Popen([{COMMAND!r}, "watch", "--interval", "0.1"], stderr=subprocess.PIPE, text=True)
watch.stderr.readline()
for turn in range(2):
    child = start(500)
    for line in watch.stderr:
        if " 500 " in line: break
    print("bound" in line, os.sched_getaffinity(500))
    child.kill(); child.wait()
    time.sleep(2 / os.sysconf("SC_CLK_TCK"))
watch.kill()
"""
    inside = f'mount --bind {there.root}/proc/driver /proc/driver; exec "$@"'
    options = (*there.prefix, "env", "AFFINITY_DEVICES=pci", *NAMESPACE, "sh", "-c", inside, "sh")
    assert choosing_pids(text, *options) == ["True {0}", "True {0}"]


# ---------------------------------------------------------------- what is left alone


def test_what_something_else_has_bound_is_left_alone_with_one_line(there: Mounted, start: Start) -> None:
    """A mask of taskset, a memory policy of its own, files of GPUs on both nodes; one that is local is no warning."""
    pinned, both, local = start(0, prefix=("taskset", "-c", "1")), start(0, 1), start(0, prefix=("taskset", "-c", "0"))
    policy = RealChild(*there.prefix, handoff="")
    policy.set_mempolicy(MemoryPolicy(MemoryMode.BIND, NodeSet([0])))
    for file in ("/dev/nvidiactl", there.file(0)):
        policy.order("open", file)
    try:
        with Watching(there) as watching:
            assert "left alone: its CPU mask 1 was set by something else" in watching.of(pinned)
            assert watching.of(pinned).endswith(f"; affinity attach {pinned.pid} --gpu {GPU0} --widen")
            assert "left alone: unknown: it has the device files of GPUs on several nodes open" in watching.of(both)
            assert "left alone: it has memory policy bind:0 of its own" in watching.of(policy)
            assert "): local: " in watching.of(local)
            time.sleep(1)
            assert {watching.count(one) for one in (pinned, both, policy, local)} == {1}
        assert [masks(one.pid) for one in (pinned, both, policy, local)] == [{"1"}, {"0-1"}, {"0-1"}, {"0"}]
    finally:
        policy.end()


def test_a_bind_by_hand_is_not_undone(there: Mounted, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `affinity attach` to another node, and of `affinity run`."""
    attached = start(0)
    assert attach(there, str(attached.pid), "--gpu", GPU1).returncode == 0
    monkeypatch.setenv("AFFINITY_DEVICES", "pci")
    started = start(0, prefix=(COMMAND, "run", "--gpu", GPU1, "--"))
    with Watching(there) as watching:
        for one in (attached, started):
            assert re.search(r"left alone: (remote|partly), bound already by strategy \w+", watching.of(one))
            assert masks(one.pid) == {"1"}


def test_processes_of_other_users_are_bound_on_request(there: Mounted, start: Start) -> None:
    """Otherwise they are not touched, and have no line."""
    theirs = start(0, prefix=("setpriv", "--reuid", str(OTHER_ID)))
    with Watching(there) as watching:
        mine = start(0)
        watching.of(mine)
        assert (watching.count(theirs), masks(theirs.pid)) == (0, {"0-1"})
    with Watching(there, "--all-users") as watching:
        assert f"({OTHER}, 'sh'): bound by strategy external" in watching.of(theirs)
        assert masks(theirs.pid) == {"0"}


def test_a_dry_run_changes_nothing(there: Mounted, start: Start, runtime: Path) -> None:
    """The line has what would be done."""
    child = start(0)
    with Watching(there, "--dry-run", "--policy", "exclusive") as watching:
        assert watching.of(child).endswith(f"would be bound: CPUs 0 and memory preferred:0, for {GPU0}")
    assert (masks(child.pid), list(runtime.iterdir())) == ({"0-1"}, [])


# ---------------------------------------------------------------- its end, its rights, what it keeps


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_between_two_processes(there: Mounted, program: Path, number: int) -> None:
    """Sent when the first threads of a process of 3,000 are bound: it ends when all of them are. Status 0."""
    opened = f"exec 3<{there.file(0)} 4</dev/nvidiactl; exec {program}"
    with Server(None, *there.prefix, "sh", "-c", opened) as large:
        large.threads(3000)
        status = Path(f"/proc/{large.pid}/status")
        with Watching(there) as watching:
            while "Cpus_allowed_list:\t0-1\n" in status.read_text():
                time.sleep(0.0005)
            assert watching.end(number) == 0
            assert masks(large.pid) == {"0"}
            assert watching.count(large) == 1
            assert watching.lines[-1] == "affinity: watch has ended; what is bound stays bound"


def test_it_keeps_three_capabilities_and_binds_processes_of_other_users_with_them(there: Mounted) -> None:
    """CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE and CAP_SYS_NICE: an undumpable process of another user, policies read."""
    theirs = RealChild(*there.prefix, *as_user(OTHER_ID), handoff="")
    try:
        theirs.start_thread()
        for file in ("/dev/nvidiactl", there.file(0)):
            theirs.order("open", file)
        theirs.order("undumpable")
        with Watching(there, "--all-users") as watching:
            status = Path(f"/proc/{watching.running.pid}/status").read_text()
            sets = dict(re.findall(r"Cap(Inh|Prm|Eff|Amb):\t(\w+)", status))
            assert {name: int(bits, 16) for name, bits in sets.items()} == {
                "Inh": 0, "Prm": 1 << 2 | 1 << 19 | 1 << 23, "Eff": 1 << 2 | 1 << 19 | 1 << 23, "Amb": 0,
            }  # fmt: skip
            assert re.search(r"bound by strategy external: CPUs 0[^;]*$", watching.of(theirs))
            assert masks(theirs.pid) == {"0"}
    finally:
        theirs.end()


def test_a_user_without_rights_binds_its_own_processes(there: Mounted, start: Start, runtime: Path) -> None:
    """And those of others are lines with the right that is missing, or none."""
    user = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--")
    theirs = start(0, prefix=("setpriv", "--reuid", str(OTHER_ID)))
    with Watching(there, "--all-users", prefix=user) as watching:
        mine = start(0, prefix=user)
        watching.of(mine)
        assert "CAP_SYS_PTRACE" in watching.line("processes may be missing")
        assert (masks(mine.pid), masks(theirs.pid)) == ({"0"}, {"0-1"})


def test_another_user_with_three_capabilities_binds_as_much_as_root(there: Mounted) -> None:
    """As systemd gives them to a service with User= and AmbientCapabilities=."""
    names = "+sys_nice,+sys_ptrace,+dac_read_search"
    user = ("setpriv", "--reuid=65533", "--regid=65533", "--clear-groups")
    theirs = RealChild(*there.prefix, *as_user(OTHER_ID), handoff="")
    with ExitStack() as ends, tempfile.TemporaryDirectory() as records:
        ends.callback(theirs.end)
        os.chown(records, 65533, 65533)
        theirs.touch(1 << 20)
        for file in ("/dev/nvidiactl", there.file(0)):
            theirs.order("open", file)
        prefix = (*user, f"--inh-caps=-all,{names}", f"--ambient-caps={names}", "--")
        with Watching(there, "--all-users", prefix=prefix, XDG_RUNTIME_DIR=records) as watching:
            assert re.search(r"bound by strategy external: CPUs 0[^;]*$", watching.of(theirs))
            status = Path(f"/proc/{watching.running.pid}/status").read_text()
            assert re.findall(r"^(?:Uid:\t|CapPrm:\t)(\w+)", status, re.MULTILINE) == ["65533", "0000000000880004"]
        assert masks(theirs.pid) == {"0"}
        assert Path(records, "affinity").stat().st_uid == 65533


def test_nothing_is_kept_open_between_two_rounds(there: Mounted, start: Start) -> None:
    """No process's files, and no more memory after many rounds."""
    children = [start(0) for _ in range(3)]
    with Watching(there, "--interval", "0.1") as watching:
        for child in children:
            watching.of(child)
        time.sleep(0.5)
        files = {
            os.readlink(f"/proc/{watching.running.pid}/fd/{n}") for n in os.listdir(f"/proc/{watching.running.pid}/fd")
        }
        assert not [file for file in files if file.startswith(("/proc", "anon_inode:[pidfd]", "/run"))]


def test_settings_that_are_wrong_are_an_error_at_its_start(there: Mounted) -> None:
    """And not a line at the first process."""
    for arguments, environ in (("--policy", "explicit"), {}), ((), {"AFFINITY_NODES": "7,7"}), (("--policy", "x"), {}):
        done = affinity("watch", *arguments, prefix=there.prefix, **PCI, **environ)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.startswith("affinity: ")


# ---------------------------------------------------------------- attach --all


def test_all_shows_the_list_and_asks(there: Mounted, start: Start) -> None:
    """On a terminal. "n" changes nothing and has status 1; "y" binds what is misplaced, and leaves the rest alone."""
    page = Path(__file__).resolve().parent.parent / "docs/howto/move-a-running-server.md"
    (command,) = re.findall(r"^affinity .*--all.*$", page.read_text(), re.MULTILINE)
    free, pinned = start(0), start(0, prefix=("taskset", "-c", "1"))
    for answer, status, mask in ("n", 1, {"0-1"}), ("y", 0, {"0"}):
        ours, theirs = pty.openpty()
        environ = {**os.environ, **PCI, "COLUMNS": "250", "TERM": "xterm"}
        argv = [*there.prefix, COMMAND, *command.split()[1:]]
        running = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
        os.close(theirs)
        read_until(ours, rf"(?s){free.pid} .* not bound.*left alone: {pinned.pid}: its CPU mask 1.*Bind 1 process\?")
        os.write(ours, f"{answer}\n".encode())
        if answer == "y":
            read_until(ours, f"process {free.pid}: bound by strategy external")
        assert running.wait(timeout=20) == status
        os.close(ours)
        assert (masks(free.pid), masks(pinned.pid)) == (mask, {"1"})


def test_all_without_a_terminal_takes_yes(there: Mounted, start: Start) -> None:
    """The error has what to type; the table is shown all the same. With nothing to do there is nothing to ask."""
    assert attach(there, "--all").returncode == 0
    free = start(1)
    done = attach(there, "--all")
    assert (done.returncode, masks(free.pid)) == (2, {"0-1"})
    assert "repeat with --yes, or with --dry-run" in done.stderr
    assert f" {free.pid} " in done.stdout
    done = attach(there, "--all", "--dry-run")
    assert (done.returncode, masks(free.pid)) == (0, {"0-1"})
    assert f"process {free.pid}: CPUs 1" in done.stdout
    done = attach(there, "--all", "--yes", "--json")
    (row,) = schemas.load("attach", done.stdout)
    assert (done.returncode, row["pid"], row["strategy"], masks(free.pid)) == (0, free.pid, "external", {"1"})


def test_all_leaves_alone_what_it_cannot_be_sure_of(there: Mounted, start: Start) -> None:
    """In JSON, with the reason; a PID that is named is bound all the same."""
    pinned, both, theirs = (
        start(0, prefix=("taskset", "-c", "1")),
        start(0, 1),
        start(0, prefix=("setpriv", "--reuid", "65534")),
    )
    rows: dict[int, Any] = {
        row["pid"]: row for row in schemas.load("attach", attach(there, "--all", "--yes", "--json").stdout)
    }
    assert rows.keys() == {pinned.pid, both.pid}
    assert rows[pinned.pid]["left_alone"] == "its CPU mask 1 was set by something else, its cpuset has CPUs 0-1"
    assert rows[both.pid]["left_alone"].startswith("unknown: ")
    assert [masks(one.pid) for one in (pinned, both, theirs)] == [{"1"}, {"0-1"}, {"0-1"}]
    assert attach(there, str(pinned.pid), "--widen").returncode == 0
    assert masks(pinned.pid) == {"0"}
    assert attach(there, "--all", "--all-users", "--yes").returncode == 0
    assert masks(theirs.pid) == {"0"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no process is given: expected its PID, or --all"),
        (("4711", "--yes"), "--all-users and --yes go with --all"),
        (("--all", "4711"), "--all binds each process to its own GPU"),
        (("--all", "--gpu", "0"), "--all binds each process to its own GPU"),
        (("--all", "--undo"), "--all binds each process to its own GPU"),
        (("--all", "--widen"), "--all binds each process to its own GPU"),
    ],
)
def test_options_that_do_not_go_together(arguments: tuple[str, ...], message: str) -> None:
    done = called("attach", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


# ---------------------------------------------------------------- attach without --gpu


def test_attach_takes_the_gpu_that_the_process_uses(
    there: Mounted, start: Start, library: Path, tmp_path: Path
) -> None:
    """By its open files, or as NVML lists it, which outweighs its environment; the environment if nothing shows one."""
    opened, given = start(1), start(prefix=("env", "CUDA_VISIBLE_DEVICES=1"))
    listed = start(0, prefix=("env", "CUDA_VISIBLE_DEVICES=0"))
    assert attach(there, str(opened.pid)).returncode == 0
    environ = nvml(there, library, tmp_path / "driver", f"compute 1 {listed.pid}")
    assert attach(there, str(listed.pid), str(given.pid), **environ).returncode == 0
    assert [masks(one.pid) for one in (opened, listed, given)] == [{"1"}, {"1"}, {"1"}]
    unknown = start(0, 1)
    done = attach(there, str(unknown.pid))
    assert (done.returncode, masks(unknown.pid)) == (2, {"0-1"})
    assert "pass its GPU (--gpu, gpu=…)" in done.stderr


def test_attach_in_python_takes_it_too(there: Mounted, start: Start) -> None:
    """`affinity.attach(pid)`."""
    child = start(1)
    text = f"import affinity; print(affinity.attach({child.pid}).observed.threads[{child.pid}])"
    python = str(Path(COMMAND).with_name("python"))
    done = subprocess.run(
        [*there.prefix, python, "-c", text], capture_output=True, text=True, check=True, env={**os.environ, **PCI}
    )
    assert (done.stdout, masks(child.pid)) == ("1\n", {"1"})
