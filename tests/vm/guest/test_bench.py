"""`affinity bench` compares runs on nodes that are there: each run of a command shows where it was."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from worker import node_cpus

from ..machines import Machine

pytestmark = pytest.mark.machine("two-package")

#: Its last CPU, as a number: that of the node, for a process that is on one.
STATE = "import os; print('last CPU', max(os.sched_getaffinity(0)))"


def test_a_worker_that_binds_itself(machine: Machine) -> None:
    """It follows AFFINITY_NODES elsewhere."""
    last = {node: max(cpus) for node, cpus in node_cpus().items() if cpus}
    gpu = machine.visible_gpus[0]
    assert gpu.node is not None
    program = f"import affinity; affinity.bind(gpu='{gpu.address}'); {STATE}"
    command = [sys.executable, "-m", "affinity", "bench", "--command", f'{sys.executable} -c "{program}"', "--json",
               "--metric", "last CPU (.*)", "--rounds", "2"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = {run["name"]: run["values"] for run in json.loads(done.stdout)["runs"]}
    assert found["unbound"] == [max(last.values())] * 2
    assert found["bound"] == [last[gpu.node]] * 2
    assert set(found["elsewhere"]) <= set(last.values()) - {last[gpu.node]}
