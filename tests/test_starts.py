"""Every start method with every strategy in every situation: where workers are born, and where their parent stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from affinity import CpuSet

PROGRAM = Path(__file__).with_name("starts_program.py")
HERE = os.sched_getaffinity(0)
ALL, FIRST, LAST = CpuSet(HERE), CpuSet([min(HERE)]), CpuSet([max(HERE)])
PLACES = {"all": [str(ALL), "default"], "first": [str(FIRST), "preferred:0"], "last": [str(LAST), "preferred:0"]}

#: The strategies that can serve a start method; the others are refused before anything is started.
SERVED = {"spawn": ("auto", "numactl", "inherit"), "fork": ("auto", "inherit"), "forkserver": ("auto", "inherit")}

pytestmark = pytest.mark.skipif(len(HERE) < 2, reason="two places need two CPUs; continuous integration has them")


def run(situation: str, method: str, strategy: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), situation, method, strategy]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize(("method", "strategy"), [(m, s) for m, strategies in SERVED.items() for s in strategies])
@pytest.mark.parametrize("situation", ["plain", "nested", "asyncio", "thread", "signal", "fork", "pool", "carried"])
def test_each_worker_is_born_in_its_place_and_the_parent_stays_in_its_own(
    situation: str, method: str, strategy: str
) -> None:
    """By the kernel's word, at the first line of the worker's target."""
    done = run(situation, method, strategy)
    assert done.returncode == 0, done.stderr
    *workers, parent = map(json.loads, done.stdout.splitlines())
    assert parent == ["parent", [str(ALL)], PLACES["all"]]
    assert len(workers) >= 2
    for name, born, now, already in workers:
        assert born == PLACES[name], done.stderr
        assert already or name == "all"
        assert now == PLACES[name] or name == "all"


@pytest.mark.parametrize(("method", "strategy"), [("fork", "numactl"), ("forkserver", "numactl")])
def test_a_start_method_that_the_named_strategy_cannot_serve_starts_nothing(method: str, strategy: str) -> None:
    """An error that names the method and the way out."""
    done = run("plain", method, strategy)
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert f"{strategy}: start method {method}" in last
    assert "name another strategy in AFFINITY_STRATEGY, or auto" in last
