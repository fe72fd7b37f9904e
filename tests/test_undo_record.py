"""The undo record on disk: whose it is, where it lies, and what a hostile one does."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from affinity import BindError, CpuSet
from affinity.kernel.linux import THIS_PROCESS
from affinity.kernel.process import LinuxProcess
from affinity.report import undo
from affinity.report.undo import UndoRecord


@pytest.fixture
def process() -> Iterator[LinuxProcess]:
    with subprocess.Popen(["sleep", "100"]) as running:
        yield LinuxProcess(running.pid)
        running.kill()


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = tmp_path / "runtime"
    base.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return base


def record(process: LinuxProcess) -> UndoRecord:
    mask = process.get_affinity()
    return UndoRecord(process.identity(), CpuSet([0]), mask, {process.pid: mask, 7: CpuSet([1])}, mask, "external", 5.0)


def test_it_is_read_as_it_was_written_by_its_user_alone(process: LinuxProcess, runtime: Path) -> None:
    """A directory of mode 700, a file of mode 600, and nothing else in it."""
    written = record(process)
    os.umask(0o000)
    try:
        undo.write(written, THIS_PROCESS)
    finally:
        os.umask(0o022)
    assert undo.read(process, THIS_PROCESS) == written
    (file,) = (runtime / "affinity").iterdir()
    assert file.name == process.identity()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file)] == [0o700, 0o600]
    undo.delete(process.identity(), THIS_PROCESS)
    assert undo.read(process, THIS_PROCESS) is None
    undo.delete(process.identity(), THIS_PROCESS)


def test_it_has_masks_and_identity_and_nothing_else(process: LinuxProcess, runtime: Path) -> None:
    """Neither the command line nor a variable of the process."""
    undo.write(record(process), THIS_PROCESS)
    text = (runtime / "affinity" / process.identity()).read_text()
    assert set(json.loads(text)) == {"version", "identity", "cpus", "main", "allowed", "threads", "strategy", "when"}
    assert "sleep" not in text
    assert str(runtime) not in text


def test_without_a_runtime_directory_it_lies_in_the_state_home(
    process: LinuxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made with mode 700. A relative or missing XDG_RUNTIME_DIR is none."""
    user = os.geteuid() or 65534
    if Path(f"/run/user/{user}").is_dir():
        pytest.skip("this user has a runtime directory of the login's")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    with tempfile.TemporaryDirectory() as home:
        monkeypatch.setenv("XDG_STATE_HOME", f"{home}/state")
        before = os.geteuid()
        os.chown(home, user, -1)
        os.seteuid(user)
        try:
            undo.write(record(process), THIS_PROCESS)
            assert (Path(home) / "state/affinity" / process.identity()).is_file()
            assert undo.read(process, THIS_PROCESS) == record(process)
        finally:
            os.seteuid(before)


@pytest.mark.skipif(os.getuid() != 0, reason="of root alone; CI is")
def test_roots_own_lies_where_a_service_and_a_shell_find_it(
    process: LinuxProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In /run, whatever the login's runtime directory is, which ends with the login."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    undo.write(record(process), THIS_PROCESS)
    assert Path("/run/affinity", process.identity()).is_file()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert undo.read(process, THIS_PROCESS) == record(process)
    undo.delete(process.identity(), THIS_PROCESS)
    assert undo.read(process, THIS_PROCESS) is None


def test_records_of_ended_processes_are_deleted(process: LinuxProcess, runtime: Path) -> None:
    """When another is written; what is no record is left alone."""
    folder = runtime / "affinity"
    folder.mkdir(mode=0o700)
    boot = process.identity().rpartition("-")[2]
    for name in (f"{2**22 - 1}-5-{boot}", f"{process.pid}-1-{boot}", "README"):
        (folder / name).write_text("{}")
    undo.write(record(process), THIS_PROCESS)
    assert {path.name for path in folder.iterdir()} == {"README", process.identity()}


def test_records_of_another_machine_are_kept(process: LinuxProcess, runtime: Path) -> None:
    """The home directory of a cluster has those of all its nodes. Of an earlier boot, they end after a month."""
    folder = runtime / "affinity"
    folder.mkdir(mode=0o700)
    theirs, old = (folder / f"{process.pid}-{ticks}-00000000" for ticks in (1, 2))
    for file in (theirs, old):
        file.write_text("{}")
    os.utime(old, (0, 0))
    undo.write(record(process), THIS_PROCESS)
    assert {path.name for path in folder.iterdir()} == {theirs.name, process.identity()}


def _link(folder: Path, target: Path) -> None:
    target.mkdir(mode=0o700)
    folder.symlink_to(target)


def _open(folder: Path, target: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def _file(folder: Path, target: Path) -> None:
    folder.write_text("")


@pytest.mark.parametrize("prepare", [_link, _open, _file])
def test_a_directory_that_others_could_have_made_is_refused(
    process: LinuxProcess, runtime: Path, tmp_path: Path, prepare: Callable[[Path, Path], None]
) -> None:
    """A link, one that a group may write, and a file; nothing is written through it."""
    target = tmp_path / "target"
    prepare(runtime / "affinity", target)
    for act in (lambda: undo.write(record(process), THIS_PROCESS), lambda: undo.read(process, THIS_PROCESS)):
        with pytest.raises(BindError, match="remove it"):
            act()
    assert not target.exists() or list(target.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="gives a directory to another user, which takes root; CI is")
def test_another_users_runtime_directory_is_not_used(process: LinuxProcess, runtime: Path) -> None:
    """As under sudo, which may keep the variable."""
    os.chown(runtime, 65534, 65534)
    undo.write(record(process), THIS_PROCESS)
    assert list(runtime.iterdir()) == []
    assert Path("/run/affinity", process.identity()).is_file()
    undo.delete(process.identity(), THIS_PROCESS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "\0" * 100,
        '{"version": 2}',
        '{"version": 1, "identity": "x"}',
        "[" * 100_000,
        '{"version": 1, "identity": 5, "cpus": "0", "main": "0", "allowed": "0", "threads": {"0": ["x"]}}',
        '{"version": 1, "identity": "I", "cpus": "0-99999999999", "main": "0", "allowed": "0", "threads": {}}',
        '{"version": 1, "identity": "another", "cpus": "0", "main": "0", "allowed": "0", "threads": {},'
        ' "strategy": "", "when": 0}',
    ],
)
def test_a_file_that_is_no_record_is_an_error_that_names_it(process: LinuxProcess, runtime: Path, text: str) -> None:
    """Also one for another process."""
    undo.write(record(process), THIS_PROCESS)
    (runtime / "affinity" / process.identity()).write_text(text)
    with pytest.raises(BindError, match=process.identity()):
        undo.read(process, THIS_PROCESS)


@pytest.mark.parametrize("kind", ["link", "pipe", "large", "folder"])
def test_what_is_no_plain_file_is_not_read(process: LinuxProcess, runtime: Path, tmp_path: Path, kind: str) -> None:
    """No link is followed, no pipe waited for."""
    undo.write(record(process), THIS_PROCESS)
    file = runtime / "affinity" / process.identity()
    text = file.read_text()
    file.unlink()
    match kind:
        case "link":
            (tmp_path / "elsewhere").write_text(text)
            file.symlink_to(tmp_path / "elsewhere")
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
        case _:
            file.write_text(text + " " * (5 << 20))
    with pytest.raises(BindError, match="remove it"):
        undo.read(process, THIS_PROCESS)


def test_a_forged_record_gives_no_more_than_the_kernel_does(process: LinuxProcess, runtime: Path) -> None:
    """It is its user's own; a CPU outside the cpuset is refused by the kernel, and the undo is an error."""
    mask = process.get_affinity()
    forged = UndoRecord(process.identity(), mask, CpuSet([4000]), {}, mask)
    undo.write(forged, THIS_PROCESS)
    argv = [sys.executable, "-m", "affinity", "attach", "--undo", str(process.pid)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "Invalid argument" in done.stderr
    assert process.get_affinity() == mask
