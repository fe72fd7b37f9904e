"""Scheduler actors of an engine of SGLang's shape, bound by the plugin in the driver; the real one: tests/engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import driver
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="needs CPUs 0 and 1")]

SHAPE = Path(__file__).parent.parent / "engines" / "sglang_shape"

PROGRAM = """
import json, logging, sys
import ray
ray.init(num_gpus=2, include_dashboard=False)
logging.basicConfig(level=logging.INFO, force=True)
from sglang.srt.plugins import load_plugins
if sys.argv[1] == "serve":  # as `sglang serve` does, before the engine's modules are imported
    load_plugins()
from sglang.srt.ray.engine import RayEngine
print("INFOS " + json.dumps([json.loads(info) for info in RayEngine(**json.loads(sys.argv[2])).infos]))
"""


def start(how: str, arguments: dict[str, object], **environ: str) -> tuple[dict[int, list[object]], str, int]:
    """Return the state of each actor by its GPU: at the start of its `__init__`, and at its end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how, json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": str(SHAPE), "RAY_DEDUP_LOGS": "0", **environ},
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    infos = [json.loads(x.removeprefix("INFOS ")) for x in done.stdout.splitlines() if x.startswith("INFOS ")]
    return {gpu: rest for info in infos for gpu, *rest in info}, done.stdout + done.stderr, done.returncode


PLACEHOLDERS = {"AFFINITY_NODES": "0,0", "AFFINITY_POLICY": "exclusive", "AFFINITY_DEVICES": "pci"}


@pytest.mark.parametrize("how", ["serve", "engine"])
def test_an_actor_is_bound_before_its_init_and_stays_so(how: str) -> None:
    """SGLang's own bind in the actor, which would prefer a node in place of AFFINITY_MEMORY, is not done."""
    states, output, _ = start(how, {}, AFFINITY_MEMORY="bind", **PLACEHOLDERS)
    for gpu in (0, 1):
        assert states[gpu] == [[[gpu], "bind:0"]] * 2, output
    assert output.count("affinity: SGLang: each worker is bound to the NUMA node of its GPU") == 1
    assert "SGLang binds to a node" not in output


def test_the_gpu_is_the_one_that_ray_assigned_where_the_variable_is_not_set(tmp_path: Path) -> None:
    """RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES, and Ray's numbers in another order than the driver's."""
    pytest.importorskip("pynvml", reason="nvidia-ml-py is optional")
    two = "".join(f"gpu 00000000:0{i + 1}:00.0 GPU-{i}{i:07}-aaaa 0x2330 a GPU\nmemory {i} 0\n" for i in range(2))
    environ = {
        **driver.environment(driver.build(tmp_path / "driver"), two, tmp_path),
        "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
        "AFFINITY_DEVICES": "nvml", "AFFINITY_POLICY": "explicit", "AFFINITY_CPUS": "0|1",
    }  # fmt: skip
    states, output, _ = start("serve", {}, **environ)
    assert {gpu: state[0] for gpu, state in states.items()} == {0: [[0], "prefer:0"], 1: [[1], "prefer:0"]}, output


def test_nothing_is_done_where_it_is_off() -> None:
    """SGLang binds as it does without this package."""
    states, output, _ = start("serve", {}, AFFINITY_AUTO="0", **PLACEHOLDERS)
    allowed = sorted(os.sched_getaffinity(0))
    assert states[1][0] == [allowed, "default"]
    assert output.count("SGLang binds to a node") == 2
    assert "affinity: " not in output


def test_the_engines_own_node_list_decides() -> None:
    """`--numa-node`: the actors have the whole node."""
    states, _, _ = start("serve", {"numa_node": [0, 0]}, **PLACEHOLDERS)
    assert states[1] == [[sorted(os.sched_getaffinity(0)), "prefer:0"]] * 2


def test_required_fails_the_actor_with_the_reason() -> None:
    """Before its `__init__`."""
    states, output, status = start(
        "serve", {}, AFFINITY_ENFORCE="required", AFFINITY_POLICY="explicit", AFFINITY_CPUS="4000|4001",
        AFFINITY_NODES="0,0", AFFINITY_DEVICES="pci",
    )  # fmt: skip
    assert (status, states) == (1, {})
    assert "4000" in output
