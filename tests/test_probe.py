"""A probe runs a command to its end, and leaves nothing of it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from affinity.kernel.command import probe


@pytest.mark.parametrize(
    ("argv", "said"),
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
def test_it_tells_how_a_command_ended(argv: list[str], said: str | None) -> None:
    """Its last line, its status or signal."""
    answer = probe(argv, 20)
    assert answer is None if said is None else said in (answer or "")


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
    """More than a pipe holds; the last line is told."""
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


def test_a_process_that_reaps_its_children_itself_is_no_failure(python: Callable[..., object]) -> None:
    """Under SIGCHLD ignored the status is lost; what could be heard was heard."""
    python(
        "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "from affinity.kernel.command import probe\n"
        "assert probe(['true'], 20) is None"
    )


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
