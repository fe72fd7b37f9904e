"""Ray as a launcher: which processes are its workers, and which GPUs it assigned to each."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from affinity import LaunchMode
from affinity.kernel import Process
from affinity.launchers import Launch, Launcher, ancestor

if TYPE_CHECKING:
    from affinity import BindReport


class RayLauncher(Launcher):
    """Ray's workers: the processes of actors and tasks. What they start has their variables and is none of them."""

    mode, distance = LaunchMode.RAY, 50
    programs = ("ray",)

    def detect(self, environ: Mapping[str, str], process: Process) -> Launch | None:
        if process.is_this_process:
            ids = _accelerator_ids(process)
            if ids is None:
                return None
            return Launch(self.mode, "a Ray worker", assigned=tuple(f"driver:{i}" for i in ids))
        if "RAY_RAYLET_PID" in environ and "RAY_JOB_ID" in environ:
            return Launch(self.mode, "RAY_RAYLET_PID and RAY_JOB_ID are set")
        return None

    def starter(self, process: Process) -> Process | None:
        """Return the raylet. It has the variables of what started `ray start`, and its workers inherit them."""
        raylet = process.environ.get("RAY_RAYLET_PID", "")
        return ancestor(process, int(raylet)) if raylet.isdecimal() else None

    def autostart(self, program: str) -> bool:
        """Return whether this is a process of Ray: a command, a daemon or a worker, whose bind is prepared.

        Source: the command lines in ray/_private/services.py, and runtime_env/context.py.
        """
        if os.path.basename(program) == "default_worker.py" and "RAY_RAYLET_PID" in os.environ:
            from affinity.integrations.ray.autostart import install

            install()
        daemon = any(folder in program for folder in ("/ray/_private/", "/ray/dashboard/", "/ray/autoscaler/"))
        return daemon or program.startswith("ray.") or super().autostart(program)

    def notify(self, report: BindReport | None) -> None:
        """Write the actor's record for `audit`, or delete it."""
        if "ray" in sys.modules:  # not in a simulated process
            from affinity.integrations.ray.store import publish

            publish(report, worker_context())


def _accelerator_ids(process: Process) -> list[str] | None:
    """Return Ray's ids of the GPUs of the running actor or task, None if this process is no Ray worker.

    Ids are text: an ordinal of the node's driver (`3`), or an entry of the raylet's CUDA_VISIBLE_DEVICES (`GPU-…`).
    They hold also where Ray does not set the variable (RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES) and where
    several workers share a GPU. Their order has no meaning. Empty if no GPU was requested.
    """
    if "ray" not in sys.modules or "RAY_JOB_ID" not in process.environ:
        return None
    context = worker_context()
    return None if context is None else sorted(context.get_accelerator_ids().get("GPU", []))


def worker_context() -> Any:
    """Return Ray's runtime context, None if this process is no Ray worker: a driver, or a worker's child."""
    import ray

    if not ray.is_initialized() or _is_fork():
        return None
    context = ray.get_runtime_context()
    return context if context.worker.mode == ray.WORKER_MODE else None


_IMPORTED_BY = os.getpid()


def _is_fork() -> bool:
    """Return whether this is a fork of a worker: it inherits Ray's state, but a call through it would hang for ever.

    A process that was forked before this module was imported is recognised by its parent: the same program, started
    by the same raylet. The parent of a worker is the raylet, or what a runtime environment puts between them.
    """
    if os.getpid() != _IMPORTED_BY or len(os.listdir("/proc/self/task")) == 1:
        return True
    raylet = f"RAY_RAYLET_PID={os.environ.get('RAY_RAYLET_PID')}".encode()
    parent = f"/proc/{os.getppid()}"
    try:
        with open(f"{parent}/environ", "rb") as environ:
            return raylet in environ.read().split(b"\0") and os.path.samefile(f"{parent}/exe", "/proc/self/exe")
    except OSError:  # another user's, or not in this container
        return False
