"""docs/howto/misplaced-processes.md: every command of it, on a machine with two GPUs and a misplaced server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import driver
import pytest
from mounted import GPU0, Mounted, machine, mounted
from test_process import RealChild

from affinity.cli.ps import _COLUMNS
from affinity.report.locality import Locality

PAGE = (Path(__file__).resolve().parent.parent / "docs/howto/misplaced-processes.md").read_text(encoding="utf-8")

COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
            for line in block.splitlines() if not line.startswith("pip ")]  # fmt: skip
#: The rows of the table, and the lines below it.
HEADER, ROW, BELOW = re.findall(r"^ {4}(\S.*)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    library = driver.build(tmp_path_factory.mktemp("driver"))
    with mounted(tmp_path_factory.mktemp("machine") / "root", machine(), library) as made:
        yield made


@pytest.fixture(scope="module")
def running(there: Mounted) -> Iterator[RealChild]:
    """A server of 20 threads on GPU 0."""
    child = RealChild(*there.prefix, handoff="")
    for _ in range(19):
        child.start_thread()
    child.order("open", "/dev/nvidiactl")
    child.order("open", there.file(0))
    yield child
    child.end()


@pytest.fixture
def server(running: RealChild) -> RealChild:
    """The server with all threads on CPU 1, which is not next to its GPU."""
    for thread in os.listdir(f"/proc/{running.pid}/task"):
        os.sched_setaffinity(int(thread), {1})
    return running


@pytest.fixture
def environ(there: Mounted, server: RealChild, tmp_path: Path) -> dict[str, str]:
    """NVML lists the server."""
    assert there.library is not None
    return driver.environment(
        there.library, driver.describe(there.machine, f"compute 0 {server.pid}"), tmp_path / "driver"
    )


def started(command: str, there: Mounted, server: RealChild, folder: Path, environ: dict[str, str]) -> list[str]:
    """The command of the page with the server's PID and a directory of the test, and where it is run."""
    text = command.replace("4711", str(server.pid)).replace("/var/lib/node_exporter", str(folder))
    environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return [*there.prefix, "sh", "-c", f"exec {text}" if "--watch" in text else text]


def cells(line: str) -> list[str]:
    """The cells of a row, without what differs from machine to machine: PID, user, command and memory."""
    found = re.split(r" {2,}", line.strip())
    return found[3:-3] + found[-2:] if found[0].isdecimal() else found


def test_the_page_begins_with_the_two_lines_that_a_person_types() -> None:
    """To install, and to look."""
    assert re.match(r"# .*\n\n```sh\npip install 'numa-affinity\[nvml\]'\naffinity ps\n```\n", PAGE)


def test_the_tables_of_the_page_have_every_column_and_locality() -> None:
    """In the order of the printed table."""
    assert cells(HEADER) == list(_COLUMNS)
    assert set(re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)) >= {locality.value for locality in Locality}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("affinity ps") and ">" not in c])
def test_each_command_shows_the_server(
    there: Mounted, server: RealChild, tmp_path: Path, environ: dict[str, str], command: str
) -> None:
    """With the row and the line below the table that are on the page."""
    argv = started(command, there, server, tmp_path, environ)
    with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        lines = []
        for line in running.stdout:
            lines.append(line.rstrip())
            if "--watch" in command and line.startswith(f"{server.pid}:"):
                running.send_signal(signal.SIGINT)
                break
        running.stdout.read()
    assert running.returncode == 1
    (row,) = [line for line in lines if line.startswith(f"{server.pid} ")]
    assert cells(row) == cells(ROW)
    assert BELOW.replace("4711", str(server.pid)) in lines


def test_the_line_below_the_table_is_a_command_that_helps(
    there: Mounted, server: RealChild, tmp_path: Path, environ: dict[str, str]
) -> None:
    """The server then runs next to its GPU, and there is no alarm."""
    alarm = next(c for c in COMMANDS if "||" in c)
    assert "not next to its GPU" in output(alarm, there, server, tmp_path, environ)
    output(BELOW.partition("; ")[2], there, server, tmp_path, {**environ, "XDG_RUNTIME_DIR": str(tmp_path)})
    assert os.sched_getaffinity(server.pid) == {0}
    assert output(alarm, there, server, tmp_path, environ) == ""


def test_the_file_of_metrics_is_written_in_one_step(
    there: Mounted, server: RealChild, tmp_path: Path, environ: dict[str, str]
) -> None:
    """The rule of the page finds the server in it, and every metric that it names is there."""
    (block,) = re.findall(r"```sh\n(affinity ps [^`]*--prometheus[^`]*)```", PAGE)
    output(block, there, server, tmp_path, environ)
    (file,) = tmp_path.glob("*.prom*")
    text = file.read_text()
    assert file.name == "affinity.prom"
    assert set(re.findall(r"affinity_\w+", PAGE)) <= set(re.findall(r"affinity_\w+", text))
    (rule,) = re.findall(r'locality=~"(.*)"', PAGE)
    count = re.findall(rf'affinity_processes{{locality="(?:{rule})"}} (\S+)', text)
    assert sorted(count) == ["0.0", "0.0", "1.0"]
    assert f'gpu="{GPU0}",locality="remote"' in text


def output(command: str, there: Mounted, server: RealChild, folder: Path, environ: dict[str, str]) -> str:
    argv = started(command, there, server, folder, environ)
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout
