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
BIND = "import affinity; affinity.bind(gpu=0); "


def runs(program: str, *options: str) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "affinity", "bench", "--command", f'{sys.executable} -c "{program}"', "--json",
               "--metric", "last CPU (.*)", "--rounds", "2", *options]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return {run["name"]: run["values"] for run in json.loads(done.stdout)["runs"]}


def test_a_command_that_is_bound_itself() -> None:
    """Elsewhere is a node of the other package."""
    last = {node: max(cpus) for node, cpus in node_cpus().items() if cpus}
    found = runs(STATE, "--node", "1")
    assert found["unbound"] == [max(last.values())] * 2
    assert found["bound"] == [last[1]] * 2
    assert set(found["elsewhere"]) <= {last[2], last[3]}


def test_a_worker_that_binds_itself(machine: Machine) -> None:
    last = {node: max(cpus) for node, cpus in node_cpus().items() if cpus}
    node = machine.visible_gpus[0].node
    assert node is not None
    found = runs(BIND + STATE)
    assert found["unbound"] == [max(last.values())] * 2
    assert found["bound"] == [last[node]] * 2
    assert found["elsewhere"][0] in set(last.values()) - {last[node]}
