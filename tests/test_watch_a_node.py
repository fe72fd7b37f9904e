"""docs/howto/watch-a-node.md: every command of it, its unit and its manifest, on processes of another user."""

from __future__ import annotations

import configparser
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from commands import COMMAND
from mounted import GPU0, Mounted, machine, mounted
from test_ps import OTHER, OTHER_ID, PCI, Shell, read_until
from test_watch import Watching, masks

from affinity.kernel.privileges import KEPT

PAGE = (Path(__file__).resolve().parent.parent / "docs/howto/watch-a-node.md").read_text(encoding="utf-8")

COMMANDS = [line.removeprefix("sudo ") for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
            for line in block.splitlines() if not line.startswith("pip ")]  # fmt: skip
FIRST, DRY_RUN, ALL, PS, UNDO = COMMANDS
PRINTED = re.findall(r"^ {4}(affinity: .*)$", PAGE, re.MULTILINE)
(UNIT,) = re.findall(r"^```ini\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
(MANIFEST,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("machine") / "root", machine()) as made:
        yield made


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "runtime"
    path.mkdir(mode=0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


@pytest.fixture
def servers(there: Mounted) -> Iterator[tuple[Shell, Shell]]:
    """Two of another user on GPU 0: one that may run anywhere, and one on the wrong CPU by taskset."""
    with ExitStack() as ends:
        made = []
        for pin in (), ("taskset", "-c", "1"):
            user = ("setpriv", "--reuid", str(OTHER_ID))
            made.append(Shell.with_files(("/dev/nvidiactl", there.file(0)), *there.prefix, *user, *pin))
            ends.callback(made[-1].end)
        yield made[0], made[1]


def run(command: str, there: Mounted) -> subprocess.CompletedProcess[str]:
    """A command of the page, which ends by itself."""
    argv = [*there.prefix, COMMAND, *command.split()[1:]]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **PCI})


def options(command: str) -> list[str]:
    """Those of `affinity watch`."""
    program, name, *rest = command.split()
    assert (Path(program).name, name) == ("affinity", "watch")
    return rest


def without_names(line: str) -> str:
    """A line without what differs: PID, user, program."""
    return re.sub(r"(process|attach) \d+", r"\1 N", re.sub(r"\(\w+, '\w+'\)", "(user, 'name')", line))


def test_the_page_begins_with_the_two_lines_that_a_person_types() -> None:
    """To install, and to watch."""
    begin = "```sh\npip install 'numa-affinity[nvml]'\nsudo affinity watch --all-users\n```\n"
    assert re.match(rf"# .*\n\n{re.escape(begin)}", PAGE)


def test_what_it_prints_is_on_the_page(there: Mounted, servers: tuple[Shell, Shell]) -> None:
    """And what it does; then that it works, and how it is taken back."""
    free, pinned = servers
    with Watching(there, *options(DRY_RUN)) as watching:
        assert "would be bound" in watching.of(free)
        assert masks(free.pid) == {"0-1"}
    with Watching(there, *options(FIRST), "--interval", "1") as watching:
        shown = [watching.line("watching"), watching.of(free), watching.of(pinned)]
        assert [without_names(line) for line in shown] == [without_names(line) for line in PRINTED]
        assert (masks(free.pid), masks(pinned.pid)) == ({"0"}, {"1"})
        assert watching.end() == 0
    (row,) = [line for line in run(PS, there).stdout.splitlines() if line.startswith(f"{free.pid} ")]
    assert re.search(r"external since .* local", row)
    assert run(UNDO.replace("4711", str(free.pid)), there).returncode == 0
    assert masks(free.pid) == {"0-1"}


def test_the_list_with_a_question(there: Mounted, servers: tuple[Shell, Shell]) -> None:
    """On a terminal."""
    ours, theirs = pty.openpty()
    argv, environ = [*there.prefix, COMMAND, *ALL.split()[1:]], {**os.environ, **PCI, "COLUMNS": "250", "TERM": "xterm"}
    running = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    read_until(ours, r"Bind 1 process\?")
    os.write(ours, b"y\n")
    read_until(ours, f"process {servers[0].pid}: bound by strategy external")
    assert running.wait(timeout=20) == 0
    os.close(ours)
    assert [masks(server.pid) for server in servers] == [{"0"}, {"1"}]


def confined(runtime: Path, capabilities: set[str]) -> tuple[str, ...]:
    """The prefix of a command that has these capabilities alone, gains none, and may write to one directory alone."""
    names = ",".join(f"+{name.lower().removeprefix('cap_')}" for name in sorted(capabilities))
    limits = f"setpriv --bounding-set=-all,{names} --no-new-privs --"
    read_only = f"mount --bind {runtime} {runtime} && mount -o remount,bind,ro / && touch {runtime}/x && ! touch /x"
    return "unshare", "-m", "sh", "-c", f'{read_only} 2>/dev/null && exec {limits} "$@"', "sh"


def test_the_unit_binds_with_its_rights(there: Mounted, servers: tuple[Shell, Shell], runtime: Path) -> None:
    """Its command, its capabilities, and a file system that it cannot write to but for its runtime directory."""
    service = unit()["Service"]
    with Watching(
        there,
        *options(service["ExecStart"]),
        prefix=confined(runtime, set(service["CapabilityBoundingSet"].split())),
    ) as watching:
        assert "bound by strategy external" in watching.of(servers[0])
        assert masks(servers[0].pid) == {"0"}
    assert len(list((runtime / "affinity").iterdir())) == 1


def unit() -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.optionxform = str  # type: ignore[assignment, method-assign]
    found.read_string(UNIT)
    return found


def test_the_unit_and_the_manifest_have_the_capabilities_that_are_kept(yaml: Any) -> None:
    """No more, no fewer."""
    assert set(unit()["Service"]["CapabilityBoundingSet"].split()) == set(KEPT)
    assert {f"CAP_{name}" for name in container(yaml)["securityContext"]["capabilities"]["add"]} == set(KEPT)


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """With the installed command for the one of the page."""
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("no systemd-analyze here (apt-get install systemd)")
    file = tmp_path / "affinity-watch.service"
    file.write_text(UNIT.replace("/opt/affinity/bin/affinity", COMMAND))
    done = subprocess.run([verify, "verify", str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "affinity-watch" in line]) == (0, [])
    file.write_text(UNIT.replace("ProtectSystem=strict", "ProtectSystem=much"))
    done = subprocess.run([verify, "verify", str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert "affinity-watch" in done.stderr


@pytest.fixture
def yaml() -> Any:
    return pytest.importorskip("yaml", reason="pip install pyyaml")


def container(yaml: Any) -> dict[str, Any]:
    (found,) = yaml.safe_load(MANIFEST)["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def test_the_manifest_binds_with_its_rights(
    there: Mounted, servers: tuple[Shell, Shell], runtime: Path, yaml: Any
) -> None:
    """Its command, its variables, its capabilities, a file system that it cannot write to, the PIDs of the host."""
    manifest, made = yaml.safe_load(MANIFEST), container(yaml)
    pod = manifest["spec"]["template"]
    assert manifest["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert pod["spec"]["hostPID"] is True
    (volume,), (mount,) = pod["spec"]["volumes"], made["volumeMounts"]
    variables = {one["name"]: one["value"] for one in made["env"]}
    assert (volume["name"], volume["hostPath"]["path"]) == (mount["name"], variables["XDG_RUNTIME_DIR"])
    assert mount["mountPath"] == variables["XDG_RUNTIME_DIR"]
    variables["XDG_RUNTIME_DIR"] = str(runtime)
    capabilities = {f"CAP_{name}" for name in made["securityContext"]["capabilities"]["add"]}
    arguments = options(" ".join(made["command"]))
    with Watching(there, *arguments, prefix=confined(runtime, capabilities), **variables) as watching:
        assert f"({OTHER}, 'sh'): bound by strategy external: CPUs 0 and memory preferred:0, for {GPU0}" in watching.of(
            servers[0]
        )
        assert masks(servers[0].pid) == {"0"}
