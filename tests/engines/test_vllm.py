"""The real vLLM with two workers, read from /proc before a model is loaded: `tox run -e engines-vllm`.

Everything is vLLM's own but its platform, which runs on CPUs and calls them GPUs (vllm_site).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed: tox run -e engines-vllm"),
    pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="needs CPUs 0 and 1"),
    pytest.mark.timeout(400),
]

HERE = Path(__file__).parent

#: GPU i is next to CPU i.
PLACEHOLDERS = {"AFFINITY_NODES": "0,0", "AFFINITY_POLICY": "exclusive", "AFFINITY_DEVICES": "pci"}

#: The command of the page that shows each worker's threads.
(PROC_COMMAND,) = re.findall(r"```sh\n(for pid in .*)\n```", (HERE.parents[1] / "docs/howto/vllm.md").read_text())

RAY = {"distributed_executor_backend": "ray"}


class State(NamedTuple):
    """The CPUs of every thread of a process, and its memory policy."""

    cpus: set[str]
    policy: str


def state(pid: int) -> State:
    """Return what /proc shows of a process."""
    masks = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        lines = (thread / "status").read_text().splitlines()
        masks |= {line.split()[1] for line in lines if line.startswith("Cpus_allowed_list")}
    return State(masks, Path(f"/proc/{pid}/numa_maps").read_text().split()[1])


def parent(pid: int) -> int:
    """Return the parent process (proc(5))."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def start(folder: Path, arguments: dict[str, Any], **environ: str) -> tuple[list[State], list[State], str, int]:
    """Return the state of each worker, of the program and of EngineCore, the engine's output and its exit status."""
    environ = {
        **os.environ, **PLACEHOLDERS, "VLLM_TEST_FOLDER": str(folder), "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn", "RAY_DEDUP_LOGS": "0", "PYTHONPATH": str(HERE / "vllm_site"),
        "PYTHONUNBUFFERED": "1", **environ,
    }  # fmt: skip
    output = folder / "output"
    with output.open("w") as file:
        command = [sys.executable, str(HERE / "vllm_program.py"), str(folder), json.dumps(arguments)]
        engine = subprocess.Popen(command, env=environ, stdout=file, stderr=subprocess.STDOUT)
    try:
        ready = [folder / "0", folder / "1"]
        until = time.monotonic() + 300
        while not all(r.exists() for r in ready) and engine.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        if engine.poll() is not None:
            return [], [], output.read_text(), engine.returncode
        pids = [int(r.read_text()) for r in ready]
        workers = [state(pid) for pid in pids]
        others = [state(engine.pid)] + ([] if arguments == RAY else [state(parent(pids[0]))])
        (folder / "shown").write_text(
            subprocess.run(["sh", "-c", PROC_COMMAND], capture_output=True, text=True, check=True).stdout
        )
        for file in ready:
            file.with_suffix(".read").touch()
        engine.wait(120)
    finally:
        engine.kill()
    return workers, others, output.read_text(), engine.returncode


BOUND = [State({"0"}, "prefer:0"), State({"1"}, "prefer:0")]
CORE = State({"0-1"}, "prefer:0")
UNBOUND = state(os.getpid())
ON = "affinity: vLLM: each worker is bound to the NUMA node of its GPU; EngineCore is "


@pytest.mark.parametrize(("arguments", "environ", "bound"), [
    ({}, {}, "already in force by strategy numactl"),
    ({}, {"VLLM_WORKER_MULTIPROC_METHOD": "fork"}, "already in force by strategy inherit"),
    (RAY, {}, "bound by strategy libnuma"),
], ids=["spawn", "fork", "ray"])  # fmt: skip
def test_each_worker_is_on_its_own_cpu_with_every_thread_before_its_model_is_loaded(
    arguments: dict[str, Any], environ: dict[str, str], bound: str, tmp_path: Path
) -> None:
    """Then the engine generates; its log has its lines as vLLM writes them, and the program has all CPUs."""
    workers, others, output, status = start(tmp_path, arguments, **environ)
    assert (status, workers, others) == (0, BOUND, [UNBOUND] if arguments == RAY else [UNBOUND, CORE]), output
    assert "generated 4 tokens" in output
    assert output.count("AFFINITY_AUTO=0") == output.count(ON) == 1
    for rank in (0, 1):
        line = f"affinity: {bound}: CPUs {rank} and memory preferred:0, for placeholder {rank}"
        assert len(re.findall(rf"\(\w+(?:-{rank})? pid=\d+\) INFO .* {line}", output)) == 1
    shown = (tmp_path / "shown").read_text()
    assert ("Cpus_allowed_list:\t0\n" in shown, "Cpus_allowed_list:\t1\n" in shown) == (True, True)


@pytest.mark.parametrize("arguments", [{}, RAY], ids=["multiprocessing", "ray"])
def test_nothing_is_done_where_it_is_off(arguments: dict[str, Any], tmp_path: Path) -> None:
    """AFFINITY_AUTO=0."""
    workers, others, output, status = start(tmp_path, arguments, AFFINITY_AUTO="0")
    assert (status, workers) == (0, [UNBOUND] * 2), output
    assert set(map(str, others)) == {str(UNBOUND)}
    assert "affinity: " not in output


@pytest.mark.parametrize("arguments", [{}, RAY], ids=["multiprocessing", "ray"])
def test_required_stops_the_engine_with_the_reason(arguments: dict[str, Any], tmp_path: Path) -> None:
    """CPUs that this machine does not have."""
    impossible = {"AFFINITY_ENFORCE": "required", "AFFINITY_POLICY": "explicit", "AFFINITY_CPUS": "4000|4001"}
    workers, _, output, status = start(tmp_path, arguments, **impossible)
    assert status != 0, output
    assert workers == []
    assert "not allowed here (allowed:" in output


def test_vllm_binds_where_the_operator_asks_for_it(tmp_path: Path) -> None:
    """`--numa-bind --numa-bind-nodes 0 0`: its own numactl, which binds memory strictly."""
    workers, others, output, status = start(tmp_path, {"numa_bind": True, "numa_bind_nodes": [0, 0]})
    strictly = State(UNBOUND.cpus, "bind:0")
    assert (status, workers, others) == (0, [strictly] * 2, [UNBOUND, strictly]), output
    for name in ("EngineCore", "worker 0", "worker 1"):
        assert output.count(f"affinity: vLLM: {name} is left to vLLM, as --numa-bind asks") == 1
