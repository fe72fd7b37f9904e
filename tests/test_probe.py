"""A probe runs a command to its end, and leaves nothing of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from affinity.kernel.command import probe


@pytest.mark.parametrize(
    ("argv", "printed"),
    [
        (["true"], None),
        (["sh", "-c", "echo first >&2; echo second >&2; exit 3"], "exit status 3: second"),
        (["sh", "-c", "echo 'bad node 7' >&2; echo 'usage: numactl' >&2; echo more >&2; exit 1"], "1: bad node 7"),
        (["sh", "-c", "kill -9 $$"], "signal 9"),
        (["false"], "exit status 1"),
        (["/nonexistent/program"], "cannot be executed: No such file"),
        (["/etc"], "cannot be executed: Permission denied"),
    ],
)
def test_it_shows_how_a_command_ended(argv: list[str], printed: str | None) -> None:
    """Its last line, its status or signal."""
    answer = probe(argv, 20)
    assert answer is None if printed is None else printed in (answer or "")


@pytest.mark.parametrize("text", ["sleep 60", "exec 2>&-; sleep 60", "yes >&2", "sleep 60 & wait"])
def test_a_late_command_is_killed_with_its_children(text: str, tmp_path: Path) -> None:
    """Also one that closes stderr, and one that never stops talking."""
    begin = time.monotonic()
    assert probe(["sh", "-c", f"echo $$ > {tmp_path}/group; {text}"], 0.3) == "did not answer within 0.3 s"
    assert time.monotonic() - begin < 20
    group = int((tmp_path / "group").read_text())
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail(f"process group {group} is still there")


def test_a_flood_on_stderr_does_not_block() -> None:
    """More than a pipe holds; the last line is reported."""
    text = "i=0; while [ $i -lt 9000 ]; do echo 0123456789012345 >&2; i=$((i+1)); done; echo last >&2; exit 1"
    assert probe(["sh", "-c", text], 50) == "exit status 1: last"


def test_it_has_no_input_and_no_output(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is read from the terminal, nothing printed on it."""
    assert probe(["sh", "-c", "cat; echo loud"], 20) is None
    assert capfd.readouterr() == ("", "")


def test_nothing_is_left_open_or_unwaited() -> None:
    """Descriptors and children are as before, also after a failure."""
    before = set(os.listdir("/proc/self/fd"))
    for argv in (["true"], ["false"], ["/nonexistent"], ["sleep", "9"]):
        probe(argv, 0.2)
    assert set(os.listdir("/proc/self/fd")) == before
    children = Path("/proc/thread-self/children").read_text().split()
    assert all("Z" not in Path(f"/proc/{child}/stat").read_text().split()[2] for child in children)


LOST = "its exit status cannot be learnt: SIGCHLD is ignored, or another thread waits for every child"


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("echo printed >&2; echo done", None),
        ("echo printed >&2", f"{LOST}: printed"),
        ("exit 3", LOST),
        ("kill -9 $$", LOST),
        ("sleep 60", "did not answer within 0.5 s"),
        ("echo done; sleep 60", "did not answer within 0.5 s"),
    ],
)
def test_under_ignored_sigchld_a_command_has_succeeded_if_it_wrote_output(
    text: str, printed: str | None, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """The kernel drops the exit status: waitid(2), ERRORS. A command whose end cannot be learnt has not succeeded."""
    done = python(
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "from affinity.kernel.command import probe\n"
        "before = set(os.listdir('/proc/self/fd'))\n"
        "print(probe(['sh', '-c', sys.argv[1]], 0.5 if 'sleep' in sys.argv[1] else 20))\n"
        "assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN\n"
        "assert set(os.listdir('/proc/self/fd')) == before",
        text,
    )
    assert done.stdout == f"{printed}\n"


def test_a_thread_that_waits_for_every_child_is_named_as_the_cause(
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """As servers have one; the status is lost to it."""
    done = python(
        "import os, threading, time\n"
        "from affinity.kernel.command import probe\n"
        "def reap():\n"
        "    while True:\n"
        "        try: os.wait()\n"
        "        except ChildProcessError: time.sleep(0.00001)\n"
        "threading.Thread(target=reap, daemon=True).start()\n"
        "answers = {probe(['false'], 20) for _ in range(200)}\n"
        f"assert answers <= {{'exit status 1', {LOST!r}}}, answers"
    )
    assert not done.stderr


def test_signals_that_python_ignores_are_default_in_it() -> None:
    """SIGPIPE ends a command that writes to a closed pipe, as it does at a shell."""
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    assert probe(["sh", "-c", "kill -PIPE $$"], 20) == "signal 13"


def test_it_imports_no_subprocess(python: Callable[..., object]) -> None:
    """That is its point."""
    python(
        "import sys; before = set(sys.modules)\n"
        "from affinity.kernel.command import probe\n"
        f"assert probe([{sys.executable!r}, '-c', ''], 60) is None\n"
        "assert not {'subprocess', 'signal', 'multiprocessing'} & (set(sys.modules) - before)"
    )
