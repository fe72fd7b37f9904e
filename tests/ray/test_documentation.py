"""What the documentation states of Ray is what happens."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from workers import EVEN, ODD, RAY, STAND_INS, cpu_of, gpus, masks, running

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parent.parent.parent
TUTORIAL = ROOT / "docs/tutorial/scheduler_actor.py"


def program(file: Path, **variables: str) -> list[str]:
    """The lines that a program prints."""
    done = subprocess.run(
        [sys.executable, str(file)],
        env={**os.environ, **RAY, **variables},
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
        check=True,
    )
    return done.stdout.splitlines()


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def infos(**variables: str) -> list[dict[str, Any]]:
    two = {**STAND_INS, "AFFINITY_NODES": "0,0", "AFFINITY_CPUS": f"{EVEN}|{ODD}"}
    return [ast.literal_eval(line) for line in program(TUTORIAL, **two, **variables) if line.startswith("{")]


def test_the_tutorials_scheduler_is_built_with_every_thread_bound() -> None:
    """SGLANG_NUMA_BIND_V2 on: libnuma, once."""
    found = infos(SGLANG_NUMA_BIND_V2="1")
    assert [info["strategy"] for info in found] == ["libnuma"] * 2
    assert sorted(info["cpus"] for info in found) == sorted([str(EVEN), str(ODD)])
    assert {info["threads left behind"] for info in found} == {0}
    assert {info["memory"] for info in found} == {"preferred:0"}
    assert [info["degraded"] for info in found] == [[], []]


@pytest.mark.skipif(EVEN == ODD, reason="one CPU: nothing can be left behind")
def test_the_tutorials_scheduler_is_bound_by_the_first_generation_where_that_is_asked_for() -> None:
    """SGLANG_NUMA_BIND_V2=0: legacy, the calling thread alone, and the same bind() did it."""
    assert TUTORIAL.read_text().count("bind(") == 1  # for either flag: never two, never none
    found = infos(SGLANG_NUMA_BIND_V2="0")
    assert [info["strategy"] for info in found] == ["legacy"] * 2
    assert sorted(info["cpus"] for info in found) == sorted([str(EVEN), str(ODD)])
    assert all(info["threads left behind"] >= 10 for info in found)
    assert {info["memory"] for info in found} == {"preferred:0"}


def test_the_readmes_actor_is_bound() -> None:
    """The five lines as they stand there."""
    (example,) = (block for block in blocks("README.md") if "@bound" in block)
    names: dict[str, Any] = {}
    with running(**STAND_INS):
        exec(compile(example, "README.md", "exec"), names)
        actor = names["Scheduler"].remote()
        mine, found = ray.get(actor.__ray_call__.remote(lambda self: (gpus(), masks())), timeout=60)
    assert {tuple(mask) for mask in found.values()} == {(cpu_of(*mine),)}


def test_a_setup_hook_does_not_find_the_gpu(tmp_path: Path) -> None:
    """As docs/explanation/why-not-py-executable.md states, with the words it prints."""
    hook, _ = blocks("docs/explanation/why-not-py-executable.md")
    (tmp_path / "hook.py").write_text(hook)
    expected = "hook: [], CUDA_VISIBLE_DEVICES=None; actor: ['0']"
    assert program(tmp_path / "hook.py")[-1] == expected
    assert expected in (ROOT / "docs/explanation/why-not-py-executable.md").read_text()


def test_an_impossible_py_executable_is_started_again_and_again_and_its_word_is_lost(tmp_path: Path) -> None:
    """Ray 2.60 stops after six starts; a Ray that never does is stopped by the program itself."""
    _, restarted = blocks("docs/explanation/why-not-py-executable.md")
    (tmp_path / "restarted.py").write_text(restarted)
    error, after = program(tmp_path / "restarted.py")[-2:]
    assert error.split(" ", 1)[0] in ("ActorUnschedulableError", "GetTimeoutError")
    assert error.endswith("numactl's word in it: False")
    assert int(re.findall(r"\d+", after)[0]) >= 5
