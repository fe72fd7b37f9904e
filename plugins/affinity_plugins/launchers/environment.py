"""Launchers whose ranks find their local rank in the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from affinity.kernel import Process
from affinity.launchers import EnvironmentLauncher, Launch, LaunchMode


class Torchrun(EnvironmentLauncher):
    """Source: PyTorch, "torchrun (Elastic Launch)", Environment Variables. Accelerate starts its ranks the same way."""

    mode, distance = LaunchMode.TORCHRUN, 10
    programs = (
        *("torchrun", "torch.distributed.run", "torch.distributed.launch"),
        *("accelerate", "accelerate-launch", "accelerate.commands.launch"),
    )
    markers, rank, size = ("TORCHELASTIC_RUN_ID",), "LOCAL_RANK", "LOCAL_WORLD_SIZE"


class DeepSpeed(EnvironmentLauncher):
    """Source: DeepSpeed 0.19.8, deepspeed/launcher/launch.py, `main`, and runner.py, which starts it."""

    distance = 10
    programs = ("deepspeed", "ds", "deepspeed.launcher.runner", "deepspeed.launcher.launch")
    markers, rank, size = ("CROSS_SIZE", "LOCAL_SIZE"), "LOCAL_RANK", "LOCAL_SIZE"


class OpenMpi(EnvironmentLauncher):
    """Source: Open MPI, mpirun(1), "Exported Environment Variables" and `--bind-to`: a core for each of two ranks, a
    node shared by several ranks if there are more. In release 5 OpenPMIx sets the variables (src/mca/pmdl/ompi). A rank
    of PRRTE alone has PMIX_RANK and PMIX_NAMESPACE, and no variable with its local rank (pmix_server.c, setup_fork)."""

    mode, distance, binds_workers = LaunchMode.MPI, 20, True
    markers, rank, size = ("OMPI_COMM_WORLD_SIZE",), "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"


class Hydra(EnvironmentLauncher):
    """Intel MPI and MPICH. Source: Intel MPI, "Environment Variables Not Propagated by Hydra" and "Process Pinning"."""

    mode, distance, binds_workers = LaunchMode.MPI, 20, True
    markers, rank, size = ("PMI_RANK",), "MPI_LOCALRANKID", "MPI_LOCALNRANKS"


class Flux(EnvironmentLauncher):
    """Source: flux-core 0.88, flux-environment(7), "Job Environment"; flux-shell-options(7), `cpu-affinity`.

    Closer than Slurm, in whose jobs it often runs: older releases leave Slurm's variables in its tasks.
    """

    distance, binds_workers = 25, True
    markers, rank, size = ("FLUX_JOB_ID",), "FLUX_TASK_LOCAL_ID", "FLUX_JOB_SIZE"

    def local_size(self, environ: Mapping[str, str]) -> int | None:
        """Return the number of the job's tasks, if they are all on this node."""
        return super().local_size(environ) if environ.get("FLUX_JOB_NNODES") == "1" else None


class Slurm(EnvironmentLauncher):
    """Source: srun(1), "OUTPUT ENVIRONMENT VARIABLES" and `--cpu-bind`."""

    mode, distance, binds_workers = LaunchMode.SLURM, 30, True
    markers, rank, size = ("SLURM_STEP_ID",), "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"

    def detect(self, environ: Mapping[str, str], process: Process) -> Launch | None:
        launch = super().detect(environ, process)
        if launch is None or not _has_gpus_of_its_own(process.environ):
            return launch
        return attrs.evolve(launch, assigned=("all",))  # what the task sees is its own

    def local_size(self, environ: Mapping[str, str]) -> int | None:
        """Return the number of the step's tasks on this node. SLURM_NTASKS_PER_NODE is the job's, which may differ."""
        for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
            size = _tasks_on_node(environ.get(name, ""), environ.get("SLURM_NODEID", ""))
            if size is not None:
                return size
        return super().local_size(environ)


def _has_gpus_of_its_own(environ: Mapping[str, str]) -> bool:
    """Return whether each task was given GPUs (`--gpus-per-task`), which hides the others unless `--gpu-bind=none`."""
    asked = "SLURM_GPUS_PER_TASK" in environ or "gres/gpu" in environ.get("SLURM_TRES_PER_TASK", "")
    return asked and "none" not in environ.get("SLURM_GPU_BIND", "").split(",")  # `verbose,none`


def _tasks_on_node(counts: str, node: str) -> int | None:
    """Return the entry of the node in a list such as `2(x3),1`: two tasks on nodes 0 to 2, one on node 3."""
    groups = [re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", group) for group in counts.split(",")]
    if len(groups) == 1:
        return int(groups[0][1]) if groups[0] else None  # as many on each node
    left = int(node) if node.isdecimal() else -1
    for group in groups:
        if group is None or left < 0:
            return None
        left -= int(group[2] or 1)
        if left < 0:
            return int(group[1])
    return None
