"""Tests of the launcher: the contract, and which GPU its workers have."""

from __future__ import annotations

from affinity_example.launcher import AffinityExampleLauncher

import affinity
from affinity.testing import FakeHost, LauncherContract

WORKER = {"POOL_ID": "pool-7", "POOL_LOCAL_RANK": "5", "POOL_LOCAL_SIZE": "8"}


class TestContract(LauncherContract):
    """Every case that a built-in launcher passes too."""

    worker = WORKER

    def make(self) -> AffinityExampleLauncher:
        return AffinityExampleLauncher()


def test_a_worker_is_bound_next_to_the_gpu_of_its_rank() -> None:
    """Through the launcher's entry point: no argument names a GPU."""
    report = affinity.bind(host=FakeHost("dgx-h100", environ=WORKER).host)
    assert report.launch.launcher == "affinity-example"
    assert report.launch.gpus == (report.launch.machine_gpus[5],)
    assert report.satisfied
