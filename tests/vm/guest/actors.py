"""The actors of test_ray_guest.py, in a module that Ray's workers can import."""

from __future__ import annotations

import os
from typing import Any

import ray
from worker import anonymous_bytes, nodes_of, policy, touch, work

import affinity
from affinity.integrations.ray import bound


def gpus() -> list[str]:
    """Ray's ids of this worker's GPUs."""
    return sorted(ray.get_runtime_context().get_accelerator_ids()["GPU"])


def look() -> dict[str, Any]:
    """Where the calling thread runs, and where memory that it touches now comes from."""
    return {"mask": sorted(os.sched_getaffinity(0)), "policy": policy(), "pages": nodes_of([touch(16)])}


class Sync:
    """Memory touched on every node, then bound (unless by the strategy `nothing`), then more touched."""

    def __init__(self, strategy: str, mib: int = 64) -> None:
        mode = "nothing" if strategy == "nothing" else "actor"
        self.life = work(mode, strategy, -1, mib, threads=1)
        self.life["gpus"] = gpus()

    def lived(self) -> dict[str, Any]:
        return self.life

    def looked(self) -> dict[str, Any]:
        return look()


@bound
class Async:
    """Bound by the decorator: all that its `__init__` touches is there, and what Ray had touched has moved."""

    def __init__(self) -> None:
        self.life: dict[str, Any] = {"gpus": gpus(), "in init": look(), "own": anonymous_bytes()}

    async def lived(self) -> dict[str, Any]:
        made = affinity.current_report()
        assert made is not None
        return {**self.life, "satisfied": made.satisfied, "degradations": [str(d) for d in made.degradations]}

    async def looked(self) -> dict[str, Any]:
        return look()


@bound
def bound_look() -> dict[str, Any]:
    return look()


def task(binds: bool) -> dict[str, Any]:
    """One function for both, so that Ray gives both the same worker."""
    return {**(bound_look() if binds else look()), "pid": os.getpid(), "gpus": gpus()}
