"""What Ray states of this process: whether it is a worker, and which GPUs are assigned to it."""

from __future__ import annotations

import os
import sys
from typing import Any

from affinity.kernel import Process


def accelerator_ids(process: Process) -> list[str] | None:
    """Return Ray's ids of the GPUs of the running actor or task, None if this process is no Ray worker.

    Ids are text: an ordinal of the node's driver (`3`), or an entry of the raylet's CUDA_VISIBLE_DEVICES (`GPU-…`).
    They hold also where Ray does not set the variable (RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES) and where
    several workers share a GPU. Their order has no meaning. Empty if no GPU was requested.
    """
    if "ray" not in sys.modules or "RAY_JOB_ID" not in process.environ:
        return None
    context = worker_context()
    return None if context is None else sorted(context.get_accelerator_ids().get("GPU", []))


def raylet_gpus() -> list[str] | None:
    """Return what Ray calls each GPU that it hands out on this node, None if it counts all that are there.

    Source: `original_visible_accelerator_ids` in ray/_private/worker.py, Ray 2.44 and 2.60.
    """
    context = worker_context()
    return context.worker.original_visible_accelerator_ids.get("GPU") if context is not None else None


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
