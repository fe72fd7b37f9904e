"""What docs/security.md states of trust, tried: programs, libraries, modules, caches and names of a stranger."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
AFFINITY = str(Path(sys.executable).with_name("affinity"))


def here(folder: Path, *command: str, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with these variables besides the usual ones."""
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=check
    )


def plant(folder: Path, *names: str) -> None:
    """Programs that leave a file `ran` beside them, and then do what was asked, as a careful thief would."""
    for name in names:
        place = folder / name
        place.write_text(f'#!/bin/sh\ntouch {folder}/ran\nexec /usr/bin/{name} "$@"\n')
        place.chmod(0o755)


@pytest.mark.parametrize("path", [":/usr/bin:/bin", ".:/usr/bin:/bin", "/usr/bin:/bin:", "./:/usr/bin:/bin"])
def test_no_program_of_the_current_directory_is_executed(tmp_path: Path, path: str) -> None:
    """Neither numactl nor what it is probed with, though PATH states so."""
    plant(tmp_path, "numactl", "true", "taskset")
    done = here(tmp_path, AFFINITY, "run", "--node", "0", "--", "/bin/echo", "done", PATH=path)
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert not (tmp_path / "ran").exists()


def test_a_path_of_relative_entries_alone_has_no_numactl(tmp_path: Path) -> None:
    """The next strategy acts, and the report states what is missing."""
    plant(tmp_path, "numactl", "true")
    text = (
        "import affinity\n"
        "with affinity.spawning(node=0) as p:\n"
        "    print(p.selection.strategy, 'apt-get install numactl' in p.selection.reason)"
    )
    done = here(tmp_path, sys.executable, "-c", text, PATH=".:")
    assert done.stdout == "inherit True\n"
    assert not (tmp_path / "ran").exists()


def test_a_command_that_was_asked_for_is_looked_up_as_exec_does(tmp_path: Path) -> None:
    """The operator's own command is the operator's own word: PATH, with all that is in it, decides."""
    plant(tmp_path, "true")
    here(tmp_path, AFFINITY, "run", "--node", "0", "--", "true", PATH=".:/usr/bin:/bin")
    assert (tmp_path / "ran").exists()


def test_another_module_named_numa_is_reported_and_not_used(tmp_path: Path) -> None:
    """A project's own numa.py, first on sys.path, is not py-libnuma."""
    (tmp_path / "numa.py").write_text("print('imported')\n")
    text = "import affinity; r = affinity.bind(node=0); print(r.strategy, r.satisfied); print(r.degradations[0].error)"
    done = here(tmp_path, sys.executable, "-c", text, PYTHONPATH=str(tmp_path))
    assert done.stdout.splitlines()[:2] == ["imported", "inherit True"]
    assert f"the module numa is {tmp_path}/numa.py, which is not py-libnuma" in done.stdout


def test_a_bind_in_process_starts_no_program(tmp_path: Path) -> None:
    """py-libnuma asks Python for libnuma at its import, and Python asks ldconfig, gcc and ld, of any PATH."""
    text = (
        "import sys, affinity\n"
        "starts = 'subprocess.Popen', 'os.posix_spawn', 'os.fork'\n"
        "sys.addaudithook(lambda event, _: event in starts and print(event))\n"
        "r = affinity.bind(node=0, settings=affinity.Settings(strategies=('libnuma',)))\n"
        "import ctypes.util\n"
        "print(r.strategy, 'numa' in sys.modules, ctypes.util.find_library.__module__)"
    )
    assert here(tmp_path, sys.executable, "-c", text).stdout == "libnuma True ctypes.util\n"


def test_a_libnuma_that_is_none_is_reported_and_not_used(tmp_path: Path) -> None:
    """On LD_LIBRARY_PATH, for the process itself and for numactl."""
    (tmp_path / "libnuma.so.1").write_text("no library\n")
    text = (
        "import affinity\n"
        "with affinity.spawning(node=0) as p: print(p.selection.strategy, 'libnuma.so.1' in p.selection.reason)\n"
        "r = affinity.bind(node=0); print(r.strategy, r.satisfied, 'libnuma.so.1 cannot be loaded' in r.reason)"
    )
    done = here(tmp_path, sys.executable, "-c", text, LD_LIBRARY_PATH=str(tmp_path))
    assert done.stdout.splitlines() == ["inherit True", "inherit True True"]


def test_a_poisoned_plugin_cache_is_not_read(tmp_path: Path) -> None:
    """stevedore would trust it, whatever wrote it; here it is not asked."""
    look = (
        "import sys; sys.executable = '/usr/bin/python3'\n"  # it keeps no cache for one below /tmp
        "import stevedore._cache; print('evil' in stevedore._cache.get_group_named('affinity.strategies'))\n"
        "from affinity.plugins import Plugins; print('evil' in Plugins().strategies.names())"
    )
    environ = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    assert here(tmp_path, sys.executable, "-c", look, **environ).stdout.split() == ["False", "False"]
    (cache,) = (tmp_path / "python-entrypoints").iterdir()
    poisoned = cache.read_text().replace(
        '"affinity.strategies": [', '"affinity.strategies": [["evil", "os:abort", "affinity.strategies"], '
    )
    cache.write_text(poisoned)
    (tmp_path / "python-entrypoints").chmod(0o777)
    assert here(tmp_path, sys.executable, "-c", look, **environ).stdout.split() == ["True", "False"]


def test_no_cache_and_no_file_is_written(tmp_path: Path) -> None:
    """Listing and loading every plugin, planning, binding: the home, the cache and the temporary folder stay empty."""
    text = (
        "import affinity; from affinity.plugins import Plugins\n"
        "p = Plugins()\n"
        "print(sum(len(g.list()) for g in (p.strategies, p.policies, p.devices)) > 10)\n"
        "affinity.plan(node=0); affinity.bind(node=0)"
    )
    places = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR", "XDG_CONFIG_HOME")}
    assert here(tmp_path, sys.executable, "-B", "-c", text, **places).stdout == "True\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["os:abort", "../evil", "evil.py:Evil", "/tmp/evil", "a b", "-X"])
def test_a_variable_names_plugins_and_no_code(tmp_path: Path, name: str) -> None:
    """No module path, no file: only what is installed has a name."""
    for variable in ("AFFINITY_STRATEGY", "AFFINITY_POLICY", "AFFINITY_DEVICES"):
        done = here(tmp_path, AFFINITY, "plan", check=False, **{variable: name, "AFFINITY_NODES": "0"})
        assert done.returncode == 2
        assert done.stderr.startswith("affinity: ")
        assert "Traceback" not in done.stderr


def test_a_forged_record_gives_no_more_than_the_kernel_does(tmp_path: Path) -> None:
    """It may lift a mask that taskset set, as any process may itself; what is not online is never asked for."""
    text = "import affinity; print(affinity.plan(node=0).observation.host.allowed_cpus)"
    every = str(min(os.sched_getaffinity(0)))

    def allowed(record: str, *options: str) -> str:
        # The shell becomes the program: its process id, start time and boot are the program's.
        by = "$$-$(cut -d' ' -f22 /proc/$$/stat)-$(cut -c1-8 /proc/sys/kernel/random/boot_id)"
        shell = f'AFFINITY_BOUND="{record};by={by}" exec "$@"'
        command = ["taskset", "-c", every, "sh", "-c", shell, "sh", sys.executable, *options, "-c", text]
        return here(tmp_path, *command).stdout.strip()

    assert allowed(f"cpus={every};allowed=0-9999") == online()
    assert allowed("", "-X", f"affinity=cpus={every};allowed=0-9999") == online()
    assert allowed("cpus=9998;allowed=0-9999") == every
    assert allowed("\\$(touch x)") == every
    assert not (tmp_path / "x").exists()


def online() -> str:
    """The machine's CPUs, as the kernel lists them."""
    return Path("/sys/devices/system/cpu/online").read_text().strip()


def test_every_claim_on_the_page_names_a_test_that_is_there() -> None:
    """docs/security.md is no better than its tests."""
    named = set(re.findall(r"`((?:\w+/)*test_\w+\.py)::(test_\w+)`", (ROOT / "docs/security.md").read_text()))
    assert len(named) >= 10
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"
