"""`Launch`: how this worker was started, and which GPUs are its own."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from affinity.errors import UsageError
from affinity.topology.cpuset import NodeSet, node_set

if TYPE_CHECKING:
    from affinity.devices.gpu import Gpu


class LaunchMode(enum.Enum):
    """When a strategy can act: around a start, an exec, in a process that runs, or on another one. No launcher's name.

    The names of four launchers are kept from before launchers were plugins. A new launcher has mode INLINE.
    """

    SPAWN = "spawn"
    COMMAND = "command"
    RAY = "ray"
    TORCHRUN = "torchrun"
    MPI = "mpi"
    SLURM = "slurm"
    INLINE = "inline"
    ATTACH = "attach"

    @classmethod
    def parse(cls, text: str) -> LaunchMode:
        """Return the mode of this name. Raises UsageError if there is none."""
        try:
            return cls(text.strip().lower())
        except (ValueError, AttributeError):
            modes = ", ".join(m.value for m in cls)
            raise UsageError(f"launch mode {text!r} is not known: expected one of {modes}") from None


#: The modes in which the process already runs when the worker's code first can act.
RUNNING = frozenset(LaunchMode) - {LaunchMode.COMMAND, LaunchMode.ATTACH}


@attrs.frozen
class Launch:
    """One worker.

    mode, reason: when a strategy can act, and what showed it. launcher: the name of the launcher that recognised the
    process, "" for none. gpus: the worker's own, with their nodes. machine_gpus: every GPU of the machine in PCI
    order, so that a split among them is the same from each worker's view. numbered_gpus: those that ordinals count in
    this process (`cuda:0`), () if their order was not needed. nodes: set if the operator named nodes
    instead of a GPU. local_rank, local_size: among the workers of this machine, None if the launcher gives none.
    assigned: the references of the GPUs that the launcher assigned to the worker, () if it assigned none, None if that
    is unknown. binds_workers: whether the launcher can give each worker a CPU mask of its own. notes: facts for
    the operator (an ambiguity, a disagreement). start_method: how this process is about to start the worker
    (spawn, fork, forkserver, exec, …), "" if the worker is this process, which already runs.
    """

    mode: LaunchMode
    reason: str = ""
    launcher: str = ""
    gpus: tuple[Gpu, ...] = ()
    machine_gpus: tuple[Gpu, ...] = ()
    numbered_gpus: tuple[Gpu, ...] = ()
    nodes: NodeSet | None = attrs.field(default=None, converter=attrs.converters.optional(node_set))
    local_rank: int | None = None
    local_size: int | None = None
    assigned: tuple[str, ...] | None = None
    binds_workers: bool = False
    notes: tuple[str, ...] = ()
    start_method: str = ""

    @property
    def gpu_nodes(self) -> NodeSet:
        """The nodes this worker belongs on: those named, else those of its GPUs that are known."""
        if self.nodes is not None:
            return self.nodes
        return NodeSet(g.node for g in self.gpus if g.node is not None)

    def reference(self, gpu: Gpu) -> str:
        """Return what `--gpu` and `gpu=` take for a GPU: its ordinal, else its place in PCI order, else its name."""
        if gpu in self.numbered_gpus:
            return str(self.numbered_gpus.index(gpu))
        return f"phys:{self.machine_gpus.index(gpu)}" if gpu in self.machine_gpus else str(gpu)
