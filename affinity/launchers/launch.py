"""`Launch`: how this worker comes into being, and which GPU is its own."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from affinity.errors import UsageError
from affinity.topology.cpuset import NodeSet

if TYPE_CHECKING:
    from affinity.devices.gpu import Gpu


class LaunchMode(enum.Enum):
    """Who starts the worker's process, and so when a strategy can act."""

    SPAWN = "spawn"
    COMMAND = "command"
    RAY = "ray"
    TORCHRUN = "torchrun"
    MPI = "mpi"
    SLURM = "slurm"
    INLINE = "inline"

    @classmethod
    def parse(cls, text: str) -> LaunchMode:
        try:
            return cls(text.strip().lower())
        except (ValueError, AttributeError):
            modes = ", ".join(m.value for m in cls)
            raise UsageError(f"launch mode {text!r} is not known: expected one of {modes}") from None


#: The modes in which the process already runs when the worker's code first can act.
RUNNING = frozenset(LaunchMode) - {LaunchMode.COMMAND}


@attrs.frozen
class Launch:
    """This worker.

    mode and why: how it was started, and what showed it. gpus: its own, with their nodes. peers: every GPU of
    the machine in PCI order, so that a split among them is the same from each worker's view. nodes: set where
    the operator named nodes instead of a GPU. local_rank, local_size: among the workers of this machine, None
    where no launcher told. notes: what an operator should know (an ambiguity, a disagreement).
    start_method: how this process is about to start the worker (spawn, fork, forkserver, exec, …), "" if the worker
    is this process, which already runs.
    """

    mode: LaunchMode
    reason: str = ""
    gpus: tuple[Gpu, ...] = ()
    machine_gpus: tuple[Gpu, ...] = ()
    nodes: NodeSet | None = None
    local_rank: int | None = None
    local_size: int | None = None
    notes: tuple[str, ...] = ()
    start_method: str = ""

    @classmethod
    def detect(cls, environ: Mapping[str, str], *, spawned: bool = False, ray_worker: bool | None = None) -> Launch:
        """Mode and local rank from an environment. `spawned`: this is a child of multiprocessing.

        ray_worker: whether Ray runs this very process as a worker; None where only the environment can tell. What a
        worker starts inherits its variables: torchrun in a task, the driver of a submitted job.

        The closest launcher wins: a worker that a Ray actor spawned is a spawned worker. Variables:
        Ray's worker environment; torchrun's "Environment Variables"; Open MPI's mpirun(1); Intel MPI's "Environment
        Variables Not Propagated by Hydra"; Slurm's srun(1), "OUTPUT ENVIRONMENT VARIABLES".
        """
        if spawned:
            return cls(LaunchMode.SPAWN, "a child process of multiprocessing")
        if ray_worker or (ray_worker is None and "RAY_RAYLET_PID" in environ and "RAY_JOB_ID" in environ):
            return cls(LaunchMode.RAY, "a Ray worker" if ray_worker else "RAY_RAYLET_PID and RAY_JOB_ID are set")
        for mode, marker, rank, size in _LAUNCHERS:
            if marker in environ and rank in environ:
                return cls(
                    mode,
                    f"{marker} and {rank} are set",
                    local_rank=_count(environ, rank),
                    local_size=_count(environ, size),
                )
        return cls(LaunchMode.INLINE, "no launcher's variables are set")

    @property
    def gpu_nodes(self) -> NodeSet:
        """The nodes this worker belongs on: those named, else those of its GPUs that are known."""
        if self.nodes is not None:
            return self.nodes
        return NodeSet(g.node for g in self.gpus if g.node is not None)


_LAUNCHERS = (
    (LaunchMode.TORCHRUN, "TORCHELASTIC_RUN_ID", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    (LaunchMode.MPI, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    (LaunchMode.MPI, "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # Hydra's: Intel MPI, MPICH
    (LaunchMode.SLURM, "SLURM_STEP_ID", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
)


def _count(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise UsageError(f"{name}={text!r}: a count from 0 was expected; correct it or pass gpu=…")
    return int(text)
