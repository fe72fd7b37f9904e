"""`AFFINITY_AUTOSTART=1`: which processes bind themselves at the start of their interpreter, as /proc shows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from fresh import ROOT, Environment, make

LINE = ROOT / "zzz_numa_affinity.pth"

pytestmark = pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="needs CPUs 0 and 1")

#: GPU i is next to CPU i.
STAND_INS = {"AFFINITY_NODES": "0,0", "AFFINITY_POLICY": "explicit", "AFFINITY_CPUS": "0|1", "AFFINITY_DEVICES": "pci"}
ON = {**STAND_INS, "AFFINITY_AUTOSTART": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SLURM = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2"}
IMPOSSIBLE = {"AFFINITY_CPUS": "8190|8191"}

#: Prints the CPUs of the process and the memory policy of its stack, as the kernel shows them, and what was imported.
LOOK = """
import json, sys
imported = sorted({"affinity", "attrs", "importlib.metadata"} & set(sys.modules))
cpus = [line.split()[1] for line in open("/proc/self/status") if line.startswith("Cpus_allowed_list")][0]
memory = [line.split()[1] for line in open("/proc/self/numa_maps") if "stack" in line][0]
print(json.dumps([cpus, memory, imported]), flush=True)
"""
FREE = ["0-1", "default", []]


def start(*arguments: str, python: str = sys.executable, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python, without the package's own error handling of tests."""
    return subprocess.run(
        [python, *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def seen(*arguments: str, **environ: str) -> list[list[Any]]:
    """What each process that prints `LOOK` has: CPUs, memory policy, imported modules."""
    done = start(*(arguments or ("-c", LOOK)), **environ)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def cpus(*arguments: str, **environ: str) -> list[str]:
    return [found[0] for found in seen(*arguments, **environ)]


def test_the_line_is_installed_in_this_environment() -> None:
    """Else the tests below prove nothing: install the package again."""
    assert (Path(sysconfig.get_path("purelib")) / LINE.name).read_text() == LINE.read_text()


@pytest.mark.parametrize("text", [None, "", "0"])
def test_unset_the_line_imports_nothing(text: str | None) -> None:
    """Also in a rank."""
    environ = {} if text is None else {"AFFINITY_AUTOSTART": text}
    assert seen(**STAND_INS, **TORCHRUN, **environ) == [FREE]


RANKS = {
    "torchrun": TORCHRUN,
    "deepspeed": {"CROSS_SIZE": "1", "LOCAL_SIZE": "2", "LOCAL_RANK": "1"},
    "openmpi": {
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    },
    "hydra": {"PMI_RANK": "1", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
    "slurm": SLURM,
    "slurm, GPUs of the task's own": {**SLURM, "SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "1"},
}


@pytest.mark.parametrize("launcher", RANKS)
def test_a_rank_is_bound_before_its_first_line(launcher: str) -> None:
    """CPUs and memory policy; a rank that a shell starts too."""
    assert [found[:2] for found in seen(**ON, **RANKS[launcher])] == [["1", "prefer:0"]]
    shell = f"import subprocess, sys; subprocess.run(['sh', '-c', '\"$0\" -c \"$1\"; true', sys.executable, {LOOK!r}])"
    assert cpus("-S", "-c", shell, **ON, **RANKS[launcher]) == ["1"]


@pytest.mark.parametrize("off", ["off", "No", "false", " "])
def test_the_words_for_off(off: str) -> None:
    """As of other variables; a blank value is no value."""
    assert cpus(**ON | {"AFFINITY_AUTOSTART": off}, **TORCHRUN) == ["0-1"]


def test_automatic_binding_that_is_off_is_off_here_too() -> None:
    """Though nodes are given, and `bind()` in the program would bind."""
    assert [found[:2] for found in seen(**ON, **TORCHRUN, AFFINITY_AUTO="0")] == [FREE[:2]]


def test_a_process_that_no_launcher_started_is_left_alone() -> None:
    """A script, a module, the interpreter by itself."""
    assert [found[:2] for found in seen(**ON)] == [FREE[:2]]


SCRIPTS = ("torchrun", "accelerate", "deepspeed", "ray", "pip", "pip3.11", "affinity")
DAEMONS = ("ray/dashboard/agent.py", "ray/_private/log_monitor.py", "ray/autoscaler/_private/monitor.py")
MODULES = ("torch.distributed.run", "accelerate.commands.launch", "deepspeed.launcher.launch", "ray.util.client", "pip")


@pytest.mark.parametrize("program", [*SCRIPTS, *DAEMONS, *MODULES, "ray/train.py"])
def test_a_launchers_own_program_is_no_rank(program: str, tmp_path: Path) -> None:
    """Though a batch system started it as one: what it starts would inherit the CPUs and the memory policy."""
    script = tmp_path / (program.replace(".", "/") + ".py" if program in MODULES else program)
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(LOOK)
    for folder in script.relative_to(tmp_path).parents[:-1]:  # before a package of that name that is installed here
        (tmp_path / folder / "__init__.py").touch()
    expected = "1" if program == "ray/train.py" else "0-1"  # a user's folder of that name
    as_module = [["-m", program], [f"-m{program}"], [f"-um{program}"]]
    for arguments in as_module if program in MODULES else [[str(script)]]:
        assert cpus("-B", *arguments, PYTHONPATH=str(tmp_path), **ON, **SLURM) == [expected]


#: A rank takes another mask, so that a child that binds itself by the rank's variables is seen, and starts children.
PARENT = """
import json, multiprocessing, os, subprocess, sys

def look():
    exec(LOOK)

LOOK = {look!r}
if __name__ == "__main__":
    os.sched_setaffinity(0, {first})
    {body}
"""


@pytest.mark.parametrize(
    "body",
    [
        "subprocess.run([sys.executable, '-c', LOOK])",
        "subprocess.run(['sh', '-c', 'exec \"$0\" -c \"$1\"', sys.executable, LOOK])",
        *(
            f"w = multiprocessing.get_context('{method}').Process(target=look); w.start(); w.join()"
            for method in ("spawn", "fork", "forkserver")
        ),
    ],
    ids=["program", "shell", "spawn", "fork", "forkserver"],
)
def test_a_child_of_a_rank_stays_where_its_parent_put_it(body: str, tmp_path: Path) -> None:
    """It inherits the rank's variables, and is no rank."""
    script = tmp_path / "train.py"
    script.write_text(PARENT.format(first={0}, look=LOOK, body=body))
    assert cpus(str(script), **ON, **TORCHRUN) == ["0"]


def test_the_helpers_of_multiprocessing_are_left_alone(tmp_path: Path) -> None:
    """Also those of a rank that is not bound: the resource tracker and the fork server are programs of their own."""
    body = (
        "del os.environ['AFFINITY_BOUND']; context = multiprocessing.get_context('forkserver'); context.Lock()\n"
        "    w = context.Process(target=look); w.start(); w.join()\n"
        "    from multiprocessing.forkserver import _forkserver as f; from multiprocessing.resource_tracker import "
        "_resource_tracker as t\n"
        "    for pid in (f._forkserver_pid, t._pid): print(json.dumps([str(sorted(os.sched_getaffinity(pid))), 0, 0]))"
    )
    script = tmp_path / "train.py"
    script.write_text(PARENT.format(first={0, 1}, look=LOOK, body=body))
    assert cpus(str(script), **ON, **TORCHRUN) == ["0-1", "[0, 1]", "[0, 1]"]


def test_the_fork_server_of_python_3_14_is_left_alone() -> None:
    """Its program begins with another import."""
    program = "import sys; from multiprocessing.forkserver import main\n" + LOOK
    assert cpus("-c", program, **ON, **TORCHRUN) == ["0-1"]


def test_a_rank_that_a_rank_starts_is_bound() -> None:
    """A launcher within a rank gives its own ranks variables of their own."""
    text = (
        "import os, subprocess, sys\n"
        "os.sched_setaffinity(0, {0, 1})\n"
        f"subprocess.run([sys.executable, '-c', {LOOK!r}], env={{**os.environ, 'LOCAL_RANK': '0'}})"
    )
    assert cpus("-c", text, **ON, **TORCHRUN) == ["0"]


def test_a_daemon_that_a_rank_leaves_behind_stays_where_the_rank_was() -> None:
    """The bound process is not above it any more; its cores are not divided once more."""
    text = (
        "import subprocess, sys\n"
        f"subprocess.run(['sh', '-c', '(sleep 0.5; exec \"$0\" -c \"$1\") &', sys.executable, {LOOK!r}])"
    )
    assert cpus("-c", text, **ON | {"AFFINITY_POLICY": "exclusive"}, **TORCHRUN) == ["1"]


def test_a_worker_started_bound_is_left_to_its_parent(tmp_path: Path) -> None:
    """`spawning()` for another GPU than the rank's."""
    script = tmp_path / "train.py"
    body = "import affinity\n    with affinity.spawning(gpu=0): w.start()\n    w.join()"
    start = "w = multiprocessing.get_context('spawn').Process(target=look)\n    "
    script.write_text(PARENT.format(first={1}, look=LOOK, body=start + body))
    assert cpus(str(script), **ON, **TORCHRUN) == ["0"]


def test_a_bind_that_is_impossible_is_an_error_line_and_the_rank_runs() -> None:
    """With the words of `bind()`, and no traceback."""
    done = start("-c", LOOK, **ON | IMPOSSIBLE, **TORCHRUN)
    assert json.loads(done.stdout)[:2] == FREE[:2]
    assert "AFFINITY_CPUS gives CPUs 8191 to this worker" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        (IMPOSSIBLE, "affinity: AFFINITY_CPUS gives CPUs 8191 to this worker"),
        ({"LOCAL_RANK": "one"}, "affinity: LOCAL_RANK='one': a count from 0 was expected"),
        ({"AFFINITY_MEMORY": "near"}, "affinity: AFFINITY_MEMORY='near' does not parse"),
        ({"AFFINITY_AUTOSTART": "maybe"}, "affinity: AFFINITY_AUTOSTART='maybe' does not parse: expected true, false"),
    ],
)
def test_a_required_bind_that_fails_ends_the_process_with_its_words(environ: dict[str, str], words: str) -> None:
    """`site` would print the exception, ignore it and start the program unbound."""
    done = start("-c", LOOK, **{**ON, **TORCHRUN, **environ, "AFFINITY_ENFORCE": "required"})
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(words)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("environ", [{"LOCAL_RANK": "one"}, {"AFFINITY_MEMORY": "near"}, {"AFFINITY_AUTOSTART": "x"}])
def test_a_mistake_is_one_line_that_names_what_is_accepted_and_the_rank_runs(environ: dict[str, str]) -> None:
    """Not a traceback of `site`, which would run the program too."""
    done = start("-c", LOOK, **{**ON, **TORCHRUN, **environ})
    assert json.loads(done.stdout)[0] == "0-1"
    ((name, text),) = environ.items()
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"affinity: this process starts unbound: {name}={text!r}")
    assert "expected" in line


@pytest.mark.parametrize("enforce", ["best-effort", "required"])
def test_a_package_that_is_not_installed_completely_is_reported(enforce: str, tmp_path: Path) -> None:
    """The line is there, and what the package needs is not: a venv that lacks a dependency."""
    (tmp_path / "attrs.py").write_text("raise ImportError('no attrs here')")
    (tmp_path / "attr.py").write_text("raise ImportError('no attrs here')")
    broken = {"PYTHONPATH": str(tmp_path), "AFFINITY_ENFORCE": enforce}
    done = start("-B", "-c", LOOK, **ON, **TORCHRUN, **broken)
    assert "no attrs here" in done.stderr
    if enforce == "required":
        assert (done.returncode, done.stdout) == (3, "")
    else:
        assert json.loads(done.stdout)[0] == "0-1"
        assert done.stderr.startswith("affinity: this process starts unbound: no attrs here: install")


def test_the_line_acts_once_in_a_process() -> None:
    """`site` runs it for each path of site-packages: twice in a venv, again for an environment within another."""
    text = (
        "import affinity, site, sysconfig\n"
        "first = affinity.current_report()\n"
        "site.addsitedir(sysconfig.get_path('purelib'))\n"
        "print(first.satisfied, affinity.current_report() is first)"
    )
    assert start("-c", text, **ON, **TORCHRUN).stdout == "True True\n"


#: Ray without a name that this package uses: what a later release may be.
MOVED_RAY = """
WORKER_MODE = 1
def is_initialized(): return True
def get_runtime_context(): raise AttributeError("this name has moved")
"""
LOADED = """
import collections, threading, types
threading.Thread(target=threading.Event().wait, daemon=True).start()  # a worker of Ray has more threads than one
import ray
from affinity.integrations.ray.autostart import _executing, _loading
descriptor, Info = types.SimpleNamespace(is_actor_method=lambda: False), collections.namedtuple("Info", "function")
manager = types.SimpleNamespace()
loaded = _loading(lambda manager, job, descriptor: getattr(manager, "_load_actor_class_from_gcs", None))
load = loaded(manager, 1, descriptor)
print(load and load()())  # the class that Ray is given in place of the actor's, if there is one
print(_executing(lambda manager, job, descriptor: Info(lambda: "done"))(manager, 1, descriptor).function())
"""


@pytest.mark.parametrize("enforce", ["best-effort", "required"])
def test_a_name_of_ray_that_moved_costs_the_binding_and_no_actor_and_no_task(enforce: str, tmp_path: Path) -> None:
    """An error line each; under `required` the actor's creator gets the error."""
    (tmp_path / "ray.py").write_text(MOVED_RAY)
    environ = {"PYTHONPATH": str(tmp_path), "RAY_JOB_ID": "1", "AFFINITY_ENFORCE": enforce}
    done = start("-B", "-c", LOADED, **STAND_INS, **environ)
    assert done.stderr.splitlines()[-1] == "AttributeError: this name has moved"
    if enforce == "required":
        assert "in __init__\n    raise error" in done.stderr
    else:
        assert done.stdout == "None\ndone\n"
        assert "affinity: this actor is unbound" in done.stderr
        assert "affinity: this task runs unbound" in done.stderr


def outside(environment: Environment, *arguments: str, **environ: str) -> list[str]:
    """The CPUs that a rank in another environment has."""
    done = environment.run("python", *arguments, "-c", LOOK, cwd=environment.path, **ON, **TORCHRUN, **environ)
    return [json.loads(line)[0] for line in done.stdout.splitlines()]


def test_the_wheel_has_the_line_and_it_acts(fresh: Environment) -> None:
    """Built and installed in a fresh environment; the line is one of the files that pip would remove."""
    (packages,) = fresh.path.glob("lib/python*/site-packages")
    (record,) = packages.glob("numa_affinity-*.dist-info/RECORD")
    assert any(line.startswith(f"{LINE.name},") for line in record.read_text().splitlines())
    assert outside(fresh) == ["1"]
    assert outside(fresh, "-I") == ["1"]
    assert outside(fresh, "-S") == ["0-1"]


def test_an_editable_install_has_the_line_too(tmp_path: Path) -> None:
    """hatchling puts it beside the package's own file."""
    environment = make(tmp_path / "venv")
    environment.run("python", "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", "-e", str(ROOT),
                    cwd=tmp_path)  # fmt: skip
    assert outside(environment) == ["1"]
