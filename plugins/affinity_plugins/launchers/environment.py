"""Launchers whose ranks find their local rank in the environment."""

from __future__ import annotations

from affinity import LaunchMode
from affinity.launchers import EnvironmentLauncher


class Torchrun(EnvironmentLauncher):
    """Source: PyTorch, "torchrun (Elastic Launch)", Environment Variables."""

    mode, distance = LaunchMode.TORCHRUN, 10
    markers, rank, size = ("TORCHELASTIC_RUN_ID",), "LOCAL_RANK", "LOCAL_WORLD_SIZE"


class DeepSpeed(EnvironmentLauncher):
    """Source: deepspeed/launcher/launch.py, `main`."""

    distance = 10
    markers, rank, size = ("CROSS_SIZE", "LOCAL_SIZE"), "LOCAL_RANK", "LOCAL_SIZE"


class OpenMpi(EnvironmentLauncher):
    """Source: Open MPI, mpirun(1), "Exported Environment Variables" and `--bind-to`: a core for each of two ranks, a
    node shared by several ranks if there are more."""

    mode, distance, binds_workers = LaunchMode.MPI, 20, True
    markers, rank, size = ("OMPI_COMM_WORLD_SIZE",), "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"


class Hydra(EnvironmentLauncher):
    """Intel MPI and MPICH. Source: Intel MPI, "Environment Variables Not Propagated by Hydra" and "Process Pinning"."""

    mode, distance, binds_workers = LaunchMode.MPI, 20, True
    markers, rank, size = ("PMI_RANK",), "MPI_LOCALRANKID", "MPI_LOCALNRANKS"


class Slurm(EnvironmentLauncher):
    """Source: srun(1), "OUTPUT ENVIRONMENT VARIABLES" and `--cpu-bind`."""

    mode, distance, binds_workers = LaunchMode.SLURM, 30, True
    markers, rank, size = ("SLURM_STEP_ID",), "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"
