"""Real processes, started as launchers start their workers: which one is recognised. (Those of Ray: tests/ray.)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import COMMAND
from ranks import PLACEHOLDERS

Python = Callable[..., subprocess.CompletedProcess[str]]

LOOK = """
import json, affinity
launch = affinity.plan(node=0).launch
print(json.dumps([launch.launcher, launch.mode.value, launch.local_rank, launch.local_size]), flush=True)
"""

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8"}
DEEPSPEED = {"CROSS_RANK": "0", "CROSS_SIZE": "1", "LOCAL_SIZE": "8", "LOCAL_RANK": "3"}
STEP = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS_PER_NODE": "1"}

#: `ray start`, and a program that one of its workers starts with the variables of a worker.
BENEATH_RAY = ("sh", "-c", 'export RAY_RAYLET_PID=$$ RAY_JOB_ID=01000000; env $OWN "$@"; exit $?', "raylet")

INLINE = ["", "inline", None, None]


@pytest.mark.parametrize(
    ("prefix", "environ", "expected"),
    [
        ((), {}, INLINE),
        ((), TORCHRUN, ["torchrun", "torchrun", 3, 8]),
        ((), DEEPSPEED, ["deepspeed", "inline", 3, 8]),
        ((), STEP, ["slurm", "slurm", 0, 1]),
        (BENEATH_RAY, STEP, INLINE),
        (BENEATH_RAY, {**STEP, "OWN": "SLURM_STEP_ID=1 SLURM_LOCALID=0"}, ["slurm", "slurm", 0, 1]),
        (
            BENEATH_RAY,
            {**STEP, "OWN": " ".join(f"{k}={v}" for k, v in TORCHRUN.items())},
            ["torchrun", "torchrun", 3, 8],
        ),
    ],
    ids=["bare", "torchrun", "deepspeed", "srun", "srun-ray-driver", "srun-ray-srun", "srun-ray-torchrun"],
)
def test_a_process_belongs_to_the_launcher_that_set_variables_for_it(
    python: Python, prefix: tuple[str, ...], environ: dict[str, str], expected: list[Any]
) -> None:
    """`srun ray start`: all that Ray starts has the step's variables, and none of it is a task of the step."""
    assert json.loads(python(LOOK, prefix=prefix, **environ).stdout) == expected


CHILD = (
    """
import multiprocessing, os, sys
def work(own):
    os.environ.update(own)
    look()
def look():
"""
    + "".join(f"    {line}\n" for line in LOOK.strip().splitlines())
    + """
if __name__ == "__main__":
    import json
    process = multiprocessing.get_context(sys.argv[1]).Process(target=work, args=(json.loads(sys.argv[2]),))
    process.start(); process.join()
    sys.exit(process.exitcode)
"""
)


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
@pytest.mark.parametrize(
    ("environ", "own", "expected"),
    [
        (TORCHRUN, {}, ["multiprocessing", "spawn", None, None]),
        (STEP, {}, ["multiprocessing", "spawn", None, None]),
        ({}, TORCHRUN, ["torchrun", "torchrun", 3, 8]),
        (STEP, TORCHRUN, ["torchrun", "torchrun", 3, 8]),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "outer"}, TORCHRUN, ["torchrun", "torchrun", 3, 8]),
    ],
    ids=["rank's child", "task's child", "elastic_launch", "elastic_launch in a step", "elastic_launch in a rank"],
)
def test_a_child_of_multiprocessing_is_a_rank_only_by_variables_of_its_own(
    tmp_path: Path, method: str, environ: dict[str, str], own: dict[str, str], expected: list[Any]
) -> None:
    """Its parent's local rank is not its own; torch's `elastic_launch` sets one in the child after its start."""
    script = tmp_path / "parent.py"
    script.write_text(CHILD)
    command = ["env", *(f"{name}={value}" for name, value in environ.items())]
    command += [sys.executable, str(script), method, json.dumps(own)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == expected


#: A rank that binds itself, and starts a data loader, which calls `bind()` too.
RANK = """
import json, multiprocessing, os, sys, affinity
from affinity.kernel.linux import THIS_PROCESS
def load(own):
    os.environ.update(own)
    report = affinity.bind()
    bound = sorted(os.sched_getaffinity(0)), str(THIS_PROCESS.get_mempolicy())
    print(json.dumps([*bound, report.strategy, report.satisfied, report.launch.notes]), flush=True)
if __name__ == "__main__":
    method, own, bind, late = json.loads(sys.argv[1])
    os.environ.update(late)
    if bind: affinity.bind(**bind)
    process = multiprocessing.get_context(method).Process(target=load, args=(own,))
    process.start(); process.join()
    sys.exit(process.exitcode)
"""
TWO_CPUS = pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="needs CPUs 0 and 1")


def loaded(
    tmp_path: Path,
    method: str,
    own: dict[str, str],
    *,
    bind: Any,
    environ: dict[str, str],
    starter: tuple[str, ...] = (),
    **late: str,
) -> list[Any]:
    """CPUs, memory policy, strategy, satisfied and notes of the data loader of a rank that was bound so.

    starter: the command before the rank's own. late: variables that the rank sets in its own environment after its
    start.
    """
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = [*starter, sys.executable, str(script), json.dumps([method, own, bind, late])]
    environ = {**os.environ, **PLACEHOLDERS, **environ}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    found: list[Any] = json.loads(done.stdout)
    return found


RANK_1 = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@TWO_CPUS
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
@pytest.mark.parametrize("required", ["best-effort", "required"])
def test_a_data_loader_of_a_bound_rank_stays_where_the_rank_is(tmp_path: Path, method: str, required: str) -> None:
    """It was given no GPU of its own: it keeps CPUs and memory policy, and its report states so."""
    environ = {**RANK_1, "AFFINITY_ENFORCE": required}
    cpus, memory, _, satisfied, notes = loaded(tmp_path, method, {}, bind={"gpu": None}, environ=environ)
    assert (cpus, memory, satisfied) == ([1], "preferred:0", True)
    assert any("it stays where its parent is" in note for note in notes)


@TWO_CPUS
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_child_that_was_given_a_gpu_of_its_own_is_bound_to_it(tmp_path: Path, method: str) -> None:
    """By a variable that its parent does not have, or by a rank: what its parent is bound to is no limit."""
    for own in ({"CUDA_VISIBLE_DEVICES": "0"}, {**RANK_1, "LOCAL_RANK": "0"}):
        cpus, *_ = loaded(tmp_path, method, own, bind={"gpu": 1}, environ={})
        assert cpus == [0], own


@TWO_CPUS
@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("late", [RANK_1, {"CUDA_VISIBLE_DEVICES": "1"}], ids=["rank", "CUDA_VISIBLE_DEVICES"])
def test_what_a_rank_set_for_itself_is_not_given_to_its_data_loader(
    tmp_path: Path, method: str, late: dict[str, str]
) -> None:
    """`elastic_launch` sets the rank in a process that runs; it was bound by name to another GPU than its rank's."""
    cpus, memory, _, satisfied, notes = loaded(tmp_path, method, {}, bind={"gpu": "phys:0"}, environ={}, **late)
    assert (cpus, memory, satisfied) == ([0], "preferred:0", True)
    assert any("it stays where its parent is" in note for note in notes)
    given = {"CUDA_VISIBLE_DEVICES": "1"} if "LOCAL_RANK" in late else RANK_1
    cpus, *_ = loaded(tmp_path, method, given, bind={"gpu": "phys:0"}, environ={}, **late)
    assert cpus == [1], "what the child has besides is its own"


@TWO_CPUS
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_the_data_loader_of_a_rank_that_started_bound_stays_too(tmp_path: Path, method: str) -> None:
    """What the rank set for itself counts from its `bind()`, which changed nothing else."""
    cpus, _, _, satisfied, notes = loaded(
        tmp_path, method, {}, bind={"gpu": "phys:0"}, environ={},
        starter=(COMMAND, "run", "--gpu", "phys:0", "--"), **RANK_1,
    )  # fmt: skip
    assert (cpus, satisfied) == ([0], True)
    assert any("it stays where its parent is" in note for note in notes)


@TWO_CPUS
def test_a_child_of_an_unbound_process_has_all_visible_gpus(tmp_path: Path) -> None:
    """There is no place of its parent to stay in."""
    cpus, _, _, satisfied, notes = loaded(tmp_path, "spawn", {}, bind=None, environ={})
    assert (cpus, satisfied) == ([0, 1], True)
    assert not any("parent" in note for note in notes)
