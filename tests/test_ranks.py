"""`affinity run` without `--gpu` and `--node`: the command is bound as `bind()` in the same process would bind it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import driver
import pytest
import schemas
from commands import COMMAND, affinity
from ranks import PLACEHOLDERS, ROOT, check_shown_command, found, program, shown_commands

pytestmark = pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="needs CPUs 0 and 1")


@pytest.fixture
def train(tmp_path: Path) -> tuple[str, ...]:
    """The command line of a rank; `found` reads what each rank saw."""
    return program(tmp_path)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
DEEPSPEED = {"CROSS_RANK": "0", "CROSS_SIZE": "1", "LOCAL_SIZE": "2", "LOCAL_RANK": "1"}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
FLUX = {"FLUX_JOB_ID": "f2", "FLUX_TASK_LOCAL_ID": "1", "FLUX_JOB_SIZE": "2", "FLUX_JOB_NNODES": "1"}
TASK = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_CPU_BIND": "none"}
ALONE = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1"}
BOTH = "affinity: placeholder 0, placeholder 1: CPUs 0-1 and memory preferred:0"


@pytest.mark.parametrize(
    ("environ", "cpus", "printed"),
    [
        (TORCHRUN, "1", ""),
        ({**TORCHRUN, "CUDA_VISIBLE_DEVICES": "0"}, "0", ""),
        ({**TORCHRUN, "CUDA_VISIBLE_DEVICES": "1,0"}, "0", ""),
        (DEEPSPEED, "1", ""),
        (HYDRA, "1", ""),
        (FLUX, "1", ""),
        (TASK, "1", ""),
        ({**TASK, "SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "0"}, "0", ""),
        (ALONE, "0-1", BOTH),
        ({**TASK, "SLURM_STEP_TASKS_PER_NODE": "8"}, "0-1", f"{BOTH} (local rank 1 of 8 is no index into the 2"),
        ({}, "0-1", BOTH),
        ({"CUDA_VISIBLE_DEVICES": "1"}, "1", ""),
    ],
    ids=["torchrun", "one GPU visible", "reordered", "deepspeed", "hydra", "flux", "srun", "gpus-per-task", "one task",
         "more tasks than GPUs", "container", "container with one GPU"],
)  # fmt: skip
def test_the_command_takes_the_worker_of_its_process(
    tmp_path: Path, train: tuple[str, ...], environ: dict[str, str], cpus: str, printed: str
) -> None:
    """Its local rank is an index only where it sees several; several GPUs of its own are reported in one line."""
    done = affinity("run", "--", *train, **PLACEHOLDERS, **environ)
    assert done.returncode == 0, done.stderr
    assert found(tmp_path) == [cpus]
    assert done.stderr.startswith(printed)
    assert done.stderr.count("\n") == bool(printed)


@pytest.fixture(scope="module")
def four_gpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a process that has the fake driver with four GPUs."""
    return driver.four_gpus(tmp_path_factory.mktemp("driver"))


ONE_EACH = {**TASK, "SLURM_GPUS_PER_TASK": "1"}
TWO_EACH = {**TASK, "SLURM_GPUS_PER_TASK": "2"}


@pytest.mark.parametrize(
    ("environ", "cpus", "printed"),
    [
        (TORCHRUN, "1", [1]),  # two ranks with four GPUs: its GPU is a guess
        ({**TORCHRUN, "CUDA_VISIBLE_DEVICES": "3,0"}, "0", []),
        ({**TORCHRUN, "CUDA_VISIBLE_DEVICES": "GPU-2,GPU-3"}, "1", []),
        ({**ONE_EACH, "CUDA_VISIBLE_DEVICES": "2"}, "0", []),  # without a device cgroup: Slurm's number of the GPU
        ({**ONE_EACH, "CUDA_VISIBLE_DEVICES": "GPU-0"}, "0", []),
        ({**HYDRA, "CUDA_VISIBLE_DEVICES": "2"}, "0", []),  # a wrapper of the site hides the others
        ({**TWO_EACH, "CUDA_VISIBLE_DEVICES": "3,1"}, "1", [1, 3]),
        ({**TWO_EACH, "CUDA_VISIBLE_DEVICES": "GPU-1,GPU-0"}, "0-1", [0, 1]),
        (ALONE, "0-1", [0, 1, 2, 3]),
        ({**ALONE, "CUDA_VISIBLE_DEVICES": "2,0"}, "0", [0, 2]),
        ({"CUDA_VISIBLE_DEVICES": "3"}, "1", []),
    ],
    ids=str,
)  # fmt: skip
def test_the_gpus_are_those_that_the_process_sees(
    tmp_path: Path, four_gpus: dict[str, str], environ: dict[str, str], cpus: str, printed: list[int]
) -> None:
    """A rank that sees one GPU has that one, of whatever number; a rank that has several is next to all of them.

    A choice that is open to doubt is reported too.
    """
    done = affinity("run", "--", *program(tmp_path), **{**four_gpus, **environ, "AFFINITY_NODES": "0,0,0,0"})
    assert done.returncode == 0, done.stderr
    assert found(tmp_path) == [cpus]
    assert sorted(int(bus) - 1 for bus in re.findall(r"0000:0(\d):00.0", done.stderr)) == printed
    assert done.stderr.count("\n") == bool(printed)


def test_a_variable_that_nothing_reads_is_reported_once() -> None:
    """By its warning, and not again as a note of the rank."""
    done = affinity("run", "--", "true", **PLACEHOLDERS, **TORCHRUN, AFFINITY_SERVICE_HOST="10.0.0.1")
    (line,) = done.stderr.splitlines()
    assert line.startswith("affinity: AFFINITY_SERVICE_HOST: no setting")


def test_the_form_that_click_reads_does_the_same(tmp_path: Path, train: tuple[str, ...]) -> None:
    """Without `--`."""
    done = affinity("run", *train, **PLACEHOLDERS, **TORCHRUN)
    assert (found(tmp_path), done.stderr) == (["1"], "")


def test_a_second_affinity_run_confirms_the_first(tmp_path: Path, train: tuple[str, ...]) -> None:
    """An image's entry point within a job's command: the GPU that was named stays."""
    done = affinity("run", "--gpu", "0", "--", COMMAND, "run", "--", *train, **PLACEHOLDERS, **TORCHRUN)
    assert (found(tmp_path), done.stderr) == (["0"], "")


def test_the_gpu_that_was_named_stays_also_if_slurm_gave_the_task_several(
    tmp_path: Path, train: tuple[str, ...]
) -> None:
    """A task of `--gpus-per-task=2` that runs two programs: `bind()` in each confirms its own GPU."""
    done = affinity("run", "--gpu", "0", "--", *train, **PLACEHOLDERS, **ALONE, SLURM_GPUS_PER_TASK="2")
    assert (found(tmp_path), done.stderr) == (["0"], "")


@pytest.mark.parametrize("environ", [TORCHRUN, {**TASK, "SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "1"}])
@pytest.mark.parametrize("enforce", ["best-effort", "required"])
@pytest.mark.parametrize("again", ["", '"$2" run -- '], ids=["bind()", "a second affinity run"])
def test_a_program_that_the_bound_command_starts_stays_there(environ: dict[str, str], enforce: str, again: str) -> None:
    """A shell script around the rank's program: what binds there does not divide the rank's cores once more."""
    text = "import affinity, os; r = affinity.bind(); print(os.sched_getaffinity(0), r.degradations, r.launch.notes)"
    exclusive = {**PLACEHOLDERS, "AFFINITY_POLICY": "exclusive", "AFFINITY_ENFORCE": enforce}
    script = ("sh", "-c", again + '"$0" -c "$1"; true', sys.executable, text, COMMAND)
    done = affinity("run", "--", *script, **exclusive, **environ)
    assert done.stderr == ""
    assert done.stdout.startswith("{1} () ('its parent is bound (GPU phys:1)")


@pytest.mark.parametrize(
    ("environ", "status", "out", "err"),
    [
        ({}, 0, "0-1\n", "affinity: not bound: no GPU is visible to this process: put --gpu REF or --node N"),
        ({"AFFINITY_ENFORCE": "required"}, 3, "", "affinity: required, but no GPU is visible to this process"),
        ({"AFFINITY_AUTO": "0"}, 0, "0-1\n", ""),
    ],
    ids=["best-effort", "required", "off"],
)
def test_without_a_gpu_the_command_runs_unbound(environ: dict[str, str], status: int, out: str, err: str) -> None:
    """With one line that states what to do; an error where binding is required."""
    show = "import os; print('-'.join(map(str, sorted(os.sched_getaffinity(0)))))"
    environ = {**PLACEHOLDERS, **environ, "CUDA_VISIBLE_DEVICES": ""}
    done = affinity("run", "--", sys.executable, "-c", show, prefix=("taskset", "-c", "0,1"), **environ)
    assert (done.returncode, done.stdout) == (status, out)
    assert done.stderr.startswith(err)
    assert done.stderr.count("\n") == bool(err)


#: The program of each launcher.
MPI = {"mpirun": "mpirun.openmpi", "mpiexec": "mpiexec.hydra"}


def needs(launcher: str) -> None:
    if shutil.which(launcher) is None:
        pytest.skip(f"{launcher} is not installed: apt-get install openmpi-bin mpich")


@pytest.mark.parametrize("line", shown_commands("mpi-slurm.md"))
def test_the_commands_of_the_page_run(tmp_path: Path, line: str) -> None:
    """Each rank of a real Open MPI or MPICH becomes its command, bound."""
    needs(next(program for name, program in MPI.items() if f"{name} " in line))
    check_shown_command(line, tmp_path)


def test_each_launcher_has_a_command_on_the_page() -> None:
    """None is left out unseen."""
    lines = shown_commands("mpi-slurm.md")
    assert [name for name in MPI if not any(f"{name} " in line for line in lines)] == []


@pytest.mark.parametrize(("option", "collisions"), [((), ["mpirun --bind-to"]), (("--bind-to", "none"), [])])
def test_the_mask_of_open_mpi_is_reported_by_explain(option: tuple[str, ...], collisions: list[str]) -> None:
    """Its default leaves each rank one core."""
    command = ("mpirun.openmpi", "--oversubscribe", *option, "-n", "1", COMMAND, "explain", "--json")
    needs(command[0])
    environ = {**os.environ, **PLACEHOLDERS, **ROOT}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=100, check=True)
    explained: dict[str, Any] = schemas.load("explain", done.stdout)
    assert [row["switch"] for row in explained["collisions"]] == collisions
