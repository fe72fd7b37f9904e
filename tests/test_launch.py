"""Who started this worker, from its environment."""

from __future__ import annotations

import pytest

from affinity import Launch, LaunchMode, UsageError

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
    assert launch.why


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
