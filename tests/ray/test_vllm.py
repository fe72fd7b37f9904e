"""Workers of an engine of vLLM's shape in Ray actors, which bind themselves; the real one: tests/engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="needs CPUs 0 and 1")]

SHAPE = Path(__file__).parent.parent / "engines" / "vllm_shape"

PROGRAM = """
import json, sys
import ray
ray.init(num_gpus=2, include_dashboard=False)
from vllm.entrypoints import LLM
executor = LLM(distributed_executor_backend="ray", **json.loads(sys.argv[1])).core.executor
print("STATES " + json.dumps([executor.ids, executor.states]))
"""

PLACEHOLDERS = {"AFFINITY_NODES": "0,0", "AFFINITY_POLICY": "exclusive", "AFFINITY_DEVICES": "pci"}


def start(arguments: dict[str, Any] | None = None, **environ: str) -> tuple[list[int], dict[str, Any], str, int]:
    """Return the GPU that Ray assigned to each worker, each worker's state, the output and the exit status."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(arguments or {})],
        env={
            **os.environ, **PLACEHOLDERS, "PYTHONPATH": str(SHAPE), "RAY_DEDUP_LOGS": "0",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0", **environ,
        },
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    shown = next((x.removeprefix("STATES ") for x in done.stdout.splitlines() if x.startswith("STATES ")), "[[], {}]")
    return *json.loads(shown), done.stdout + done.stderr, done.returncode


BOUND = {"0": [["0"], "prefer:0"], "1": [["1"], "prefer:0"]}


@pytest.mark.parametrize("order", ["", "reversed"])
def test_a_worker_is_bound_to_the_gpu_that_vllm_opens_before_its_model_is_loaded(order: str) -> None:
    """Which need not be the one that Ray assigned to its actor: vLLM sorts the GPUs and not the actors."""
    ids, states, output, status = start(VLLM_TEST_ORDER=order)
    assert (status, states) == (0, BOUND), output
    assert ids == ([1, 0] if order else [0, 1])
    for rank in (0, 1):
        assert output.count(f"INFO affinity: bound by strategy libnuma: CPUs {rank} and memory preferred:0") == 1
    assert "each worker is bound" not in output  # an actor does not start workers


def test_nothing_is_done_where_it_is_off() -> None:
    """AFFINITY_AUTO=0."""
    _, states, output, _ = start(AFFINITY_AUTO="0")
    allowed = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("Cpus_allowed_list"))
    assert list(states.values()) == [[[allowed.split()[1]], "default"]] * 2
    assert "affinity: " not in output


def test_the_engines_own_node_list_decides() -> None:
    """`--numa-bind --numa-bind-nodes`, which vLLM does not read under Ray."""
    _, states, output, _ = start({"numa_bind": True, "numa_bind_nodes": [0, 0]})
    assert states["1"][1] == "prefer:0"
    assert states["1"][0] != ["1"]
    assert "affinity: vLLM: worker 1: node 0 of --numa-bind-nodes decides" in output


def test_required_fails_the_actor_with_the_reason() -> None:
    """Before its worker is built."""
    impossible = {"AFFINITY_ENFORCE": "required", "AFFINITY_POLICY": "explicit", "AFFINITY_CPUS": "4000|4001"}
    _, states, output, status = start(**impossible)
    assert (status, states) == (1, {})
    assert "not allowed here (allowed:" in output
