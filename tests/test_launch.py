"""Who started this worker, from its environment."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

import affinity
from affinity import LaunchMode, UsageError
from affinity.launchers import Launch
from affinity.testing import FakeHost

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8"}
MPI = {"OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_LOCAL_RANK": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
HYDRA = {"PMI_RANK": "6", "PMI_SIZE": "16", "MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "4"}
SLURM = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("environ", "mode", "rank", "size"),
    [
        ({}, LaunchMode.INLINE, None, None),
        (TORCHRUN, LaunchMode.TORCHRUN, 3, 8),
        (MPI, LaunchMode.MPI, 2, 4),
        (HYDRA, LaunchMode.MPI, 2, 4),
        ({**SLURM, **HYDRA}, LaunchMode.MPI, 2, 4),
        ({**SLURM, "PMI_RANK": "6"}, LaunchMode.SLURM, 1, None),
        (SLURM, LaunchMode.SLURM, 1, None),
        ({**SLURM, **MPI}, LaunchMode.MPI, 2, 4),
        ({**SLURM, **TORCHRUN}, LaunchMode.TORCHRUN, 3, 8),
        ({"LOCAL_RANK": "1"}, LaunchMode.INLINE, None, None),
    ],
)
def test_the_closest_launcher_wins(
    environ: dict[str, str], mode: LaunchMode, rank: int | None, size: int | None
) -> None:
    """torchrun inside a Slurm step is torchrun; a lone LOCAL_RANK is nobody's."""
    launch = Launch.detect(environ)
    assert (launch.mode, launch.local_rank, launch.local_size) == (mode, rank, size)
    assert launch.reason


def test_a_spawned_child_is_a_spawned_child_wherever_its_parent_runs() -> None:
    """Its parent's launcher started the parent."""
    assert Launch.detect(TORCHRUN, spawned=True).mode is LaunchMode.SPAWN


def test_a_rank_that_is_no_number_is_refused_naming_the_variable() -> None:
    """Rather than taken for rank 0."""
    with pytest.raises(UsageError, match="LOCAL_RANK='three'"):
        Launch.detect({**TORCHRUN, "LOCAL_RANK": "three"})


def test_an_unknown_mode_is_refused_naming_the_known() -> None:
    """`--launch-mode`."""
    with pytest.raises(UsageError, match="expected one of spawn"):
        LaunchMode.parse("systemd")
    assert LaunchMode.parse("Ray") is LaunchMode.RAY


def test_a_launcher_around_ray_is_not_one_of_a_program_beneath_its_worker(python) -> None:  # type: ignore[no-untyped-def]
    """`srun ray start`: every process of the raylet has Slurm's variables, and none is Slurm's task."""
    step = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "0"}
    look = "import affinity; launch = affinity.plan(node=0).launch; print(launch.mode.value, launch.local_rank)"
    with subprocess.Popen(["sleep", "60"], env={**os.environ, **step}) as raylet:
        try:
            beneath = {"RAY_RAYLET_PID": str(raylet.pid), "RAY_JOB_ID": "01000000"}
            assert python(look, **step, **beneath).stdout == "inline None\n"
            own = {"SLURM_STEP_ID": "1", "SLURM_LOCALID": "3"}
            assert python(look, **own, **beneath).stdout == "slurm 3\n"
            assert python(look, **own).stdout == "slurm 3\n"
        finally:
            raylet.kill()


@pytest.mark.parametrize(
    "arguments",
    [{"node": "1"}, {"node": -1}, {"node": 1.0}, {"gpu": 1.0}, {"gpu": b"1"}, {"gpu": [b"1"]}, {"gpu": -1}],
)
def test_what_is_no_number_and_no_name_is_refused_saying_what_was_expected(arguments: dict[str, Any]) -> None:
    """No traceback from inside, and no byte taken for an ordinal."""
    (name,) = arguments
    with pytest.raises(UsageError, match=rf"{name}=.*: a whole number from 0 was expected"):
        affinity.plan(**arguments, host=FakeHost("dgx-h100").host)


def test_a_launch_mode_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="launch mode 5 is not known: expected one of"):
        affinity.plan(launch_mode=5, host=FakeHost("dgx-h100").host)  # type: ignore[arg-type]
