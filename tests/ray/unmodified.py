"""Actors and a task that import nothing of the package under test, in a module that Ray's workers import."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray


def proc_masks(pid: int | str = "self") -> dict[str, tuple[int, ...]]:
    """Each thread's CPUs, from /proc."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            lines = (task / "status").read_text().splitlines()
        except OSError:  # it has ended
            continue
        (text,) = (line.split()[1] for line in lines if line.startswith("Cpus_allowed_list"))
        ranges = [part.split("-") for part in text.split(",")]
        found[task.name] = tuple(cpu for part in ranges for cpu in range(int(part[0]), int(part[-1]) + 1))
    return found


def memory_policy(pid: int | str = "thread-self") -> str:
    """The memory policy of the calling thread, or of a process's main thread."""
    (policy,) = {line.split()[1] for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines()}
    return policy


def look() -> dict[str, Any]:
    """This worker, now."""
    return {
        "pid": os.getpid(),
        "thread": threading.get_native_id(),
        "masks": proc_masks(),
        "memory": memory_policy(),
        "gpus": sorted(ray.get_runtime_context().get_accelerator_ids()["GPU"]) if ray.is_initialized() else [],
        "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "record": os.environ.get("AFFINITY_BOUND"),
    }


AT_IMPORT = look()


def work(argument: object = 0) -> dict[str, Any]:
    """Take a while, so that Ray needs several workers."""
    time.sleep(argument if isinstance(argument, float) else 0)
    return look()


def call(actor: object, function: Callable[..., object], *arguments: object) -> None:
    """For `__ray_call__`: call a function in the actor."""
    function(*arguments)


class Plain:
    """Remembers what its module's import and its `__init__` saw."""

    def __init__(self, *given: object) -> None:
        self.given = given
        self.init = look()

    def seen(self) -> dict[str, Any]:
        return {
            "import": AT_IMPORT,
            "init": self.init,
            "now": look(),
            "given": self.given,
        }


class Asynchronous(Plain):
    async def seen(self) -> dict[str, Any]:
        return Plain.seen(self)


class Grouped:
    """Each method waits until four are running."""

    def __init__(self) -> None:
        self.all_here = threading.Barrier(4)

    def compute(self) -> dict[str, Any]:
        self.all_here.wait(timeout=50)
        return look()

    @ray.method(concurrency_group="io")
    def load(self) -> dict[str, Any]:
        return self.compute()
