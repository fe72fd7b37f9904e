"""docs/howto/move-a-running-server.md: every command and program of it, on a server of 20 threads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import Server, build

from affinity import CpuSet

PAGE = (Path(__file__).resolve().parent.parent / "docs/howto/move-a-running-server.md").read_text(encoding="utf-8")

COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
            for line in block.splitlines() if not line.startswith("pip ")]  # fmt: skip
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
#: What a command prints, in order: each block of indented lines.
PRINTED = [block.replace("    ", "", 1).replace("\n    ", "\n") for block in re.findall(r"(?:^ {4}.*\n)+", PAGE, re.M)]

ALL = CpuSet(os.sched_getaffinity(0))
ENVIRON = {"AFFINITY_NODES": "0,0", "AFFINITY_DEVICES": "pci", "AFFINITY_POLICY": "exclusive"}

pytestmark = pytest.mark.skipif(len(ALL) < 2, reason="one CPU: every mask is the same")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("server"))


@pytest.fixture
def server(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    with Server(program) as running:
        running.threads(19)
        yield running


def without_numbers(text: str) -> str:
    """The text with N for what differs from machine to machine: numbers, the GPU's name, whether pages had to move."""
    text = re.sub(r"0000:\w+:00\.0|placeholder \d", "GPU", text)
    return re.sub(r"\d[\d.,-]*", "N", re.sub(r"; [\d.]+ MiB moved", "", text))


def run(command: str, server: Server) -> str:
    """What a command of the page prints, with the server's PID for the page's."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    argv = ["sh", "-c", command.replace("4711", str(server.pid))]
    done = subprocess.run(argv, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout


def test_the_page_begins_with_the_two_lines_that_a_person_types() -> None:
    """To install, and to attach."""
    assert re.match(r"# .*\n\n```sh\npip install numa-affinity\naffinity attach 4711 --gpu 0\n```\n", PAGE)


def test_what_the_commands_print_is_on_the_page(server: Server) -> None:
    """The first, the dry run and the undo, each with its effect."""
    attach, dry_run, _, undo = COMMANDS[:4]
    first, planned, undone = map(without_numbers, PRINTED)
    assert without_numbers(run(dry_run, server)) == planned
    assert server.mask() == ALL
    assert without_numbers(run(attach, server)) == first
    assert server.mask() != ALL
    assert without_numbers(run(undo, server)) == undone
    assert server.mask() == ALL


@pytest.mark.parametrize("command", COMMANDS[4:])
def test_each_other_command_binds_the_server(server: Server, command: str) -> None:
    """And can be taken back."""
    run(command, server)
    assert server.mask() != ALL or "--policy" in command  # one that gives every GPU the whole node
    run(COMMANDS[3], server)
    assert server.mask() == ALL


def test_the_program_binds_the_server_and_takes_it_back(server: Server) -> None:
    """As written."""
    (program,) = PROGRAMS
    for text, mask in ((program, ALL), (program.replace("report.undo()\n", ""), CpuSet([ALL.first()]))):
        argv = [sys.executable, "-c", text.replace("4711", str(server.pid))]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert done.stdout.endswith(" True 1.0\n")
        assert server.mask() == mask
