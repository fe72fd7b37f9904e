"""What the tests of Ray and the workers they start both use.

GPUs are placeholders: even ones on one CPU, odd ones on another, so that a binding can be reported from none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

EVEN, ODD = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))

#: Eight GPUs that this machine does not have.
STAND_INS = {
    "AFFINITY_NODES": "0,0,0,0,0,0,0,0",
    "AFFINITY_POLICY": "explicit",
    "AFFINITY_CPUS": "|".join([f"{EVEN}|{ODD}"] * 4),
}
RAY = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.path.dirname(__file__)}


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """This process's environment with these variables, and back."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def running(**variables: str) -> Iterator[None]:
    """Ray on this machine, with eight GPUs declared, and workers that have these variables."""
    with environment(**RAY, **variables):
        # Ray starts a worker for each CPU at once: two are enough.
        ray.init(num_cpus=2, num_gpus=8, include_dashboard=False, log_to_driver=False, logging_level="error")
        try:
            yield
        finally:
            ray.shutdown()


def cpu_of(gpu: str) -> int:
    """The CPU beside a placeholder GPU."""
    return ODD if int(gpu) % 2 else EVEN


def masks() -> dict[str, list[int]]:
    """Each thread's CPUs, as the kernel shows them."""
    found = {}
    for tid in os.listdir("/proc/self/task"):
        try:
            found[tid] = sorted(os.sched_getaffinity(int(tid)))
        except ProcessLookupError:
            continue
    return found


def gpus() -> list[str]:
    """Ray's own word about this worker's GPUs."""
    return sorted(ray.get_runtime_context().get_accelerator_ids()["GPU"])
