"""`affinity run` becomes the command: bound, and with nothing left in between."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import schemas
from commands import COMMAND, affinity

from affinity import Host

NODE = Host.live().topology.cpu_nodes.first()
HERE = ("run", "--node", str(NODE), "--")
CPU = min(os.sched_getaffinity(0))

STATE = "grep -h _allowed_list /proc/self/status; head -n 1 /proc/self/numa_maps"


def test_the_command_is_bound_by_the_real_numactl() -> None:
    """CPUs of the node, pages preferably there, as the kernel shows it to the command itself."""
    done = affinity(*HERE, "sh", "-c", STATE)
    assert done.returncode == 0, done.stderr
    host = Host.live()
    cpus = host.topology.by_id[NODE].cpus & host.allowed_cpus
    assert f"Cpus_allowed_list:\t{cpus}\n" in done.stdout
    assert f"prefer:{NODE} " in done.stdout
    assert not done.stderr


def test_under_taskset_a_narrowed_mask_is_not_widened() -> None:
    """Only what the operator left is taken."""
    done = affinity(*HERE, "sh", "-c", STATE, prefix=("taskset", "-c", str(CPU)))
    assert f"Cpus_allowed_list:\t{CPU}\n" in done.stdout
    assert f"prefer:{NODE} " in done.stdout


def test_a_bound_command_finds_what_was_allowed_before() -> None:
    """A worker that it starts for another node is not kept on this one."""
    program = "import os, affinity; print(os.environ['AFFINITY_BOUND'], affinity.Host.live().allowed_cpus)"
    done = affinity(*HERE, sys.executable, "-c", program)
    record, allowed = done.stdout.split()
    assert f"memory=preferred:{NODE};allowed={allowed};" in record
    assert allowed == str(Host.live().allowed_cpus)


def test_without_numactl_the_mask_and_policy_are_inherited(tmp_path: Path) -> None:
    """The fallback binds as well, and nothing is printed, for nothing was dropped."""
    done = affinity(*HERE, "/bin/sh", "-c", f"PATH=/usr/bin:/bin; {STATE}", PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"prefer:{NODE} " in done.stdout


def test_a_numactl_that_refuses_is_reported_and_survived(tmp_path: Path) -> None:
    """Its own words reach the operator; the command is bound another way."""
    false = tmp_path / "numactl"
    false.write_text("#!/bin/sh\necho 'the libnuma of the day is closed' >&2\nexit 7\n")
    false.chmod(0o755)
    done = affinity(*HERE, "sh", "-c", STATE, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0
    assert "the libnuma of the day is closed" in done.stderr
    assert "exit status 7" in done.stderr
    assert f"prefer:{NODE} " in done.stdout


@pytest.mark.parametrize("strategy", ["numactl", "inherit", "noop"])
def test_no_process_is_left_in_between(strategy: str) -> None:
    """The command has the process id that was started."""
    child = subprocess.Popen(
        [COMMAND, *HERE, "sh", "-c", "echo $$"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "AFFINITY_STRATEGY": strategy},
    )
    out, _ = child.communicate(timeout=60)
    assert int(out) == child.pid


@pytest.mark.parametrize("strategy", ["numactl", "inherit"])
def test_exit_status_and_streams_are_the_commands_own(strategy: str) -> None:
    """Standard input too."""
    done = affinity(*HERE, "sh", "-c", "cat; echo problem >&2; exit 42", stdin="through\n", AFFINITY_STRATEGY=strategy)
    assert (done.returncode, done.stdout, done.stderr) == (42, "through\n", "problem\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_reaches_the_command(number: signal.Signals) -> None:
    """And kills it, as the caller sees."""
    before = signal.signal(number, lambda *_: None)  # not ignored, as a shell's & has it: that would be inherited
    try:
        text = "echo up; exec sleep 60"
        child = subprocess.Popen([COMMAND, *HERE, "sh", "-c", text], stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(number, before)
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    child.send_signal(number)
    assert child.wait(timeout=60) == -number
    child.stdout.close()


def test_signals_that_python_ignores_are_given_back() -> None:
    """A command at the head of a pipe ends with it: SIGPIPE and SIGXFSZ act as without us.

    Both are started by path: subprocess then uses posix_spawn(3) from Python 3.13 on, whose child ignores two of
    glibc's own signals, 32 and 33 (sysdeps/unix/sysv/linux/spawni.c), which an exec keeps.
    """
    command = [shutil.which("sh") or "", "-c", "grep SigIgn /proc/self/status"]
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    assert affinity(*HERE, *command).stdout == plain.stdout
    ignored = int(plain.stdout.split()[1], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1), "nothing would be tested"


def test_the_environment_is_the_commands_own() -> None:
    """Also in the C locale, where Python sets LC_CTYPE; only the note of the binding is added."""
    done = affinity(*HERE, "env", environ={"PATH": os.environ["PATH"]})
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert names == {"PATH", "AFFINITY_BOUND"}, done.stderr
    kept = affinity(*HERE, "env", environ={"PATH": os.environ["PATH"], "LC_CTYPE": "C.UTF-8"})
    assert "LC_CTYPE=C.UTF-8" in kept.stdout.splitlines()


def test_open_files_are_passed_on() -> None:
    """A descriptor that the caller opened is open in the command."""
    done = subprocess.run(
        ["sh", "-c", f"exec 5<<'E'\nhello\nE\nexec {COMMAND} {' '.join(HERE)} cat /dev/fd/5"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "hello\n", done.stderr


def test_arguments_are_not_touched() -> None:
    """Spaces, quotes, options and bytes that are no text."""
    odd = ["a b", "'\"$x", "--node", "7", "", os.fsdecode(b"\xff\xfe")]
    done = subprocess.run(
        [COMMAND, *HERE, "printf", "%s|", *odd], capture_output=True, timeout=60, check=False, env={**os.environ}
    )
    assert done.stdout == b"".join(os.fsencode(o) + b"|" for o in odd), done.stderr


def test_the_double_dash_may_be_left_out() -> None:
    """The first word that is no option begins the command; its options are its own."""
    done = affinity("run", "--node", str(NODE), "sh", "-c", "echo $0", "--node")
    assert done.stdout == "--node\n", done.stderr


@pytest.mark.parametrize(
    ("name", "status", "printed"),
    [
        ("no-such-command-anywhere", 127, "command not found"),
        ("./missing", 127, "command not found"),
        ("./plain", 126, "Permission denied"),
        ("./", 126, "Permission denied"),
    ],
)
def test_what_cannot_be_executed_ends_as_in_a_shell(tmp_path: Path, name: str, status: int, printed: str) -> None:
    """126 and 127, with one line on stderr, although it is numactl that would execute it."""
    (tmp_path / "plain").write_text("text")
    done = affinity(*HERE, f"{tmp_path}/{name}" if "/" in name else name)
    assert done.returncode == status, done.stderr
    assert printed in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("strategy", ["numactl", "inherit"])
def test_a_script_without_its_first_line_goes_to_the_shell(tmp_path: Path, strategy: str) -> None:
    """As in a shell, and in execvp(3)."""
    script = tmp_path / "script"
    script.write_text("echo from the script $1\n")
    script.chmod(0o755)
    assert affinity(*HERE, str(script), "x", AFFINITY_STRATEGY=strategy).stdout == "from the script x\n"


@pytest.mark.parametrize("option", ["--synthetic", "--root", "--machine"])
def test_another_machine_is_no_option(option: str, tmp_path: Path) -> None:
    """Status 2, and nothing is started."""
    done = affinity("run", option, "pack:2 core:2", "--node", "1", "--", "touch", str(tmp_path / "never"))
    assert done.returncode == 2
    assert re.search(rf"No such option:? '?{option}", done.stderr)
    assert not (tmp_path / "never").exists()


def test_options_override_variables() -> None:
    """Policy, memory policy and strategy; --verbose names what is put in force, and why."""
    given = ("--memory", "interleave", "--strategy", "inherit", "--policy", "node", "--verbose")
    done = affinity("run", "--node", "0", *given, "--", "cat", "/proc/self/numa_maps", AFFINITY_MEMORY="bind",
                    AFFINITY_STRATEGY="numactl", AFFINITY_POLICY="even")  # fmt: skip
    assert " interleave:0 " in done.stdout
    assert re.match(r"affinity: bound by strategy inherit: CPUs \S+ and memory interleave:0, for node 0 "
                    r"\(--strategy inherit names inherit; ", done.stderr)  # fmt: skip
    wrong = affinity("run", "--memory", "bnd", "--", "true")
    assert (wrong.returncode, wrong.stderr) == (2, "affinity: --memory='bnd' does not parse: expected preferred, bind, "
                                                   "interleave, local, none; did you mean bind?\n")  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "environ", "status", "printed"),
    [
        (("run", "--", "true"), {"AFFINITY_MEMORY": "here"}, 2, "AFFINITY_MEMORY='here'"),
        (("run", "--gpu", "0", "--node", "0", "--", "true"), {}, 2, "--gpu and --node"),
        (("run", "--node", str(NODE)), {}, 2, "COMMAND"),
        (("run", "--node", str(NODE), "--"), {}, 2, "COMMAND"),
        (("run", "--node", "65000", "--", "true"), {}, 2, "node 65000 is not on this machine"),
        (("run", "--node", "-1", "--", "true"), {}, 2, "-1"),
        (("run", "--gpu", "GPU-nothing", "--", "true"), {}, 2, "GPU-nothing"),
        ((*HERE, "true"), {"AFFINITY_MEMORY": "here"}, 2, "AFFINITY_MEMORY='here'"),
        ((*HERE, "true"), {"AFFINITY_STRATEGY": "numactl", "PATH": "/nowhere"}, 3, "apt-get install numactl"),
    ],
)
def test_what_is_wrong_is_reported_before_anything_starts(
    arguments: tuple[str, ...], environ: dict[str, str], status: int, printed: str
) -> None:
    """With the form that click reads and the one that it does not."""
    done = affinity(*arguments, **environ)
    assert done.returncode == status, done.stderr
    assert printed in done.stderr
    assert "Traceback" not in done.stderr


def test_required_ends_with_3_where_numactl_and_its_fallback_are_refused(tmp_path: Path) -> None:
    """A command is not started half bound where that is an error."""
    false = tmp_path / "numactl"
    false.write_text("#!/bin/sh\necho refused >&2\nexit 1\n")
    false.chmod(0o755)
    done = affinity(
        *HERE,
        "echo",
        "started",
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        AFFINITY_STRATEGY="numactl",
        AFFINITY_ENFORCE="required",
    )
    assert done.returncode == 3, done.stderr
    assert "refused" in done.stderr
    assert not done.stdout


def test_a_plan_for_the_command_mode_states_the_same() -> None:
    """`affinity explain` and `affinity run` use one table."""
    done = affinity("explain", "--node", str(NODE), "--launch-mode", "command", "--json")
    assert schemas.load("explain", done.stdout)["strategy"] == "numactl"
