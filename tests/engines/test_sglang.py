"""The real SGLang with two schedulers, read from /proc before a scheduler is built: `tox run -e engines-sglang`.

Everything is SGLang's own but its Scheduler and the modules that only a machine with a GPU has (sglang_site).
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
    pytest.mark.skipif(find_spec("sglang") is None, reason="sglang is not installed: tox run -e engines-sglang"),
    pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="needs CPUs 0 and 1"),
    pytest.mark.timeout(400),
]

HERE = Path(__file__).parent

#: GPU i is next to CPU i.
PLACEHOLDERS = {"AFFINITY_NODES": "0,0", "AFFINITY_POLICY": "exclusive", "AFFINITY_DEVICES": "pci"}

#: The command of the page that shows each scheduler's threads.
(PROC_COMMAND,) = re.findall(r"```sh\n(for pid in .*)\n```", (HERE.parents[1] / "docs/howto/sglang.md").read_text())


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


def start(
    folder: Path, *how: str, arguments: dict[str, Any] | None = None, **environ: str
) -> tuple[list[State], set[str], str, int]:
    """Return each scheduler's state, the CPUs of the other processes, the engine's output and its exit status."""
    environ = {
        **os.environ, **PLACEHOLDERS, "SGLANG_TEST_FOLDER": str(folder), "RAY_DEDUP_LOGS": "0",
        "PYTHONPATH": str(HERE / "sglang_site"), "PYTHONUNBUFFERED": "1", **environ,
    }  # fmt: skip
    command = [sys.executable, str(HERE / "sglang_program.py"), str(folder), json.dumps(arguments or {}), *how]
    output = folder / "output"
    with output.open("w") as file:
        engine = subprocess.Popen(command, env=environ, stdout=file, stderr=subprocess.STDOUT)
    try:
        ready = [folder / "0", folder / "1"]
        until = time.monotonic() + 300
        while not all(r.exists() for r in ready) and engine.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        if engine.poll() is not None:
            return [], set(), output.read_text(), engine.returncode
        pids = [int(r.read_text()) for r in ready]
        schedulers = [state(pid) for pid in pids]
        (folder / "shown").write_text(
            subprocess.run(["sh", "-c", PROC_COMMAND], capture_output=True, text=True, check=True).stdout
        )
        others = {engine.pid, *children(engine.pid)} - set(pids)
        masks = set().union(*(state(pid).cpus for pid in others)) if "ray" not in how else state(engine.pid).cpus
        for file in ready:
            file.with_suffix(".read").touch()
        engine.wait(120)
    finally:
        engine.kill()
    return schedulers, masks, output.read_text(), engine.returncode


def children(pid: int) -> set[int]:
    """Return the child processes of a process (proc(5), CONFIG_PROC_CHILDREN)."""
    return {int(p) for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()}


BOUND = [State({"0"}, "prefer:0"), State({"1"}, "prefer:0")]
UNBOUND = state(os.getpid())
ON = "affinity: SGLang: each worker is bound to the NUMA node of its GPU; its other processes are left alone; AFFINITY"


@pytest.mark.parametrize("how", [(), ("ray",)], ids=["multiprocessing", "ray"])
def test_each_scheduler_is_on_its_own_cpu_with_every_thread_before_it_is_built(
    how: tuple[str, ...], tmp_path: Path
) -> None:
    """The log has its lines as SGLang writes them, and the other processes (detokenizer) have all CPUs."""
    schedulers, others, output, status = start(tmp_path, *how)
    assert (status, schedulers, others) == (0, BOUND, UNBOUND.cpus), output
    assert output.count(ON) == 1
    shown = (tmp_path / "shown").read_text()
    assert ("Cpus_allowed_list:\t0\n" in shown, "Cpus_allowed_list:\t1\n" in shown) == (True, True)
    strategy = "libnuma" if how else "numactl"
    for rank in (0, 1):
        (line,) = (x for x in output.splitlines() if f"TP{rank}] affinity: already in force by strategy" in x)
        assert f"strategy {strategy}: CPUs {rank} and memory preferred:0, for placeholder {rank}" in line


def test_each_replica_of_data_parallelism_is_on_its_own_cpu(tmp_path: Path) -> None:
    """They are started by threads of SGLang's controller."""
    schedulers, _, output, status = start(tmp_path, arguments={"tp_size": 1, "dp_size": 2})
    assert (status, schedulers) == (0, BOUND), output
    assert output.count(ON) == 1


def test_the_first_generation_by_its_own_variable(tmp_path: Path) -> None:
    """SGLANG_NUMA_BIND_V2=0 and SGLANG_SET_CPU_AFFINITY=1: SGLang calls its own functions, which have no effect."""
    environ = {"SGLANG_NUMA_BIND_V2": "0", "SGLANG_SET_CPU_AFFINITY": "1"}
    schedulers, _, output, _ = start(tmp_path, arguments={"numa_node": [0, 0]}, **environ)
    assert [s.policy for s in schedulers] == ["prefer:0"] * 2, output
    assert "TP1] affinity: bound by strategy legacy: " in output
    for name in ("numa_bind_to_node", "set_gpu_proc_affinity"):
        assert output.count(f"affinity: SGLang: {name} has no effect") == 2
    assert "GPU 1: node 0 of --numa-node decides" in output


@pytest.mark.parametrize("how", [(), ("ray",)], ids=["multiprocessing", "ray"])
def test_nothing_is_done_where_it_is_off(how: tuple[str, ...], tmp_path: Path) -> None:
    """AFFINITY_AUTO=0."""
    schedulers, _, output, status = start(tmp_path, *how, AFFINITY_AUTO="0")
    assert (status, schedulers) == (0, [UNBOUND] * 2), output
    assert "affinity: " not in output


@pytest.mark.parametrize(("how", "arguments"), [
    ((), {}), ((), {"tp_size": 1, "dp_size": 2}), (("ray",), {}),
], ids=["multiprocessing", "data-parallel", "ray"])  # fmt: skip
def test_required_stops_the_engine_with_the_reason(
    how: tuple[str, ...], arguments: dict[str, Any], tmp_path: Path
) -> None:
    """CPUs that this machine does not have."""
    impossible = {"AFFINITY_ENFORCE": "required", "AFFINITY_POLICY": "explicit", "AFFINITY_CPUS": "4000|4001"}
    schedulers, _, output, status = start(tmp_path, *how, arguments=arguments, **impossible)
    assert status != 0, output
    assert schedulers == []
    assert "4000" in output
