"""`srun ray start`: every process beneath the raylet has the variables of the step, and none is a task of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
from workers import STAND_INS, cpu_of, gpus, running

import affinity

pytestmark = [pytest.mark.ray, pytest.mark.timeout(60)]

STEP = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS_PER_NODE": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}

LOOK = """
import json, sys, affinity
if sys.argv[1:]:
    import ray
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
def look():
    launch = affinity.plan(node=0).launch
    print(json.dumps([launch.launcher, launch.mode.value, launch.local_rank]), flush=True)
"""
CHILD = """
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=look)
child.start(); child.join()
"""


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    """Ray, started by a task of Slurm."""
    with running(**STAND_INS, **STEP):
        yield


class Worker:
    def launch(self) -> tuple[str, str, list[str], str]:
        plan = affinity.plan()
        assert plan.placement is not None
        return plan.launch.launcher, plan.launch.mode.value, gpus(), str(plan.placement.cpus)

    def started(self, text: str, *arguments: str, **environ: str) -> Any:
        """What a program that this actor starts finds."""
        command = [sys.executable, "-c", LOOK + text, *arguments]
        done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)


@pytest.mark.usefixtures("node")
def test_a_worker_is_rays_and_what_it_starts_belongs_to_what_set_variables_for_it(actors: Callable[..., Any]) -> None:
    """A program, the driver of a job, a child of multiprocessing, torchrun, a step of its own."""
    actor = actors(Worker)
    launcher, mode, mine, cpus = ray.get(actor.launch.remote())
    assert (launcher, mode, cpus) == ("ray", "ray", str(cpu_of(*mine)))
    address = ray.get_runtime_context().gcs_address

    def started(*arguments: str, **environ: str) -> Any:
        return ray.get(actor.started.remote(*arguments, **environ), timeout=50)

    assert started("look()") == ["", "inline", None]
    assert started("look()", address) == ["", "inline", None]
    assert started(CHILD) == ["multiprocessing", "spawn", None]
    assert started("look()", **TORCHRUN) == ["torchrun", "torchrun", 0]
    assert started("look()", SLURM_STEP_ID="1", SLURM_LOCALID="0") == ["slurm", "slurm", 0]
