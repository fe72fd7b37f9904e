"""The plugin of vLLM in an engine of vLLM's shape (tests/engines/vllm_shape): real starts, read from /proc.

The real engine is in tests/engines, which has an environment of its own; its Ray actors are in tests/ray.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import driver
import pytest

pytestmark = pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="needs CPUs 0 and 1")

SHAPE = Path(__file__).parent / "engines" / "vllm_shape"

#: GPU i is next to CPU i.
PLACEHOLDERS = {"AFFINITY_NODES": "0,0", "AFFINITY_POLICY": "exclusive", "AFFINITY_DEVICES": "pci"}

SPAWN = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}

ON = (
    "affinity: vLLM: each worker is bound to the NUMA node of its GPU; EngineCore is bound to the nodes of its "
    "workers, the API server is left alone; AFFINITY_AUTO=0 turns it off"
)


def start(
    *, shape: Path = SHAPE, prefix: tuple[str, ...] = (), arguments: dict[str, Any] | None = None, **environ: str
) -> tuple[Any, str, int]:
    """Return what /proc shows of each process of an engine, the engine's output, and its exit status."""
    done = subprocess.run(
        [*prefix, sys.executable, str(shape / "start.py"), json.dumps(arguments or {})],
        env={**os.environ, **PLACEHOLDERS, **environ},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    shown = next((json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")), {})
    return shown, done.stdout + done.stderr, done.returncode


def unbound() -> list[Any]:
    """The state of a process that nothing has bound."""
    allowed = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("Cpus_allowed_list"))
    return [[allowed.split()[1]], "default"]


NOTHING = ["DP0", "DP0_TP0", "DP0_TP1", "server"]


@pytest.mark.parametrize(("environ", "strategy"), [
    ({}, "inherit"),  # by fork, as the offline LLM()
    (SPAWN, "numactl"),  # by several threads at a time
    ({"VLLM_PLUGINS": "other,affinity", "SGLANG_AUTO_NUMA_BIND": "0"}, "inherit"),  # another engine's switch
], ids=["fork", "spawn", "listed"])  # fmt: skip
def test_each_worker_starts_on_its_gpu(environ: dict[str, str], strategy: str) -> None:
    """EngineCore has the nodes of both, and the API server is left alone; each process logs its line once."""
    shown, output, status = start(**environ)
    assert status == 0, output
    assert shown == {
        "server": unbound(), "DP0": [["0-1"], "prefer:0"],
        "DP0_TP0": [["0"], "prefer:0"], "DP0_TP1": [["1"], "prefer:0"],
    }  # fmt: skip
    assert output.count(ON) == output.count("AFFINITY_AUTO=0") == 1
    assert f"(MainProcess) INFO {ON}" in output
    for rank in (0, 1):
        bound = f"already in force by strategy {strategy}: CPUs {rank} and memory preferred:0"
        assert output.count(f"(DP0_TP{rank}) INFO affinity: {bound}") == 1


def test_each_data_parallel_rank_has_its_own_gpus() -> None:
    """Each has an EngineCore, and with one GPU the worker is in its process."""
    arguments = {"data_parallel_size": 2, "tensor_parallel_size": 1, "distributed_executor_backend": "uni"}
    shown, output, _ = start(arguments=arguments)
    for rank in (0, 1):
        assert shown[f"DP{rank}"] == shown[f"DP{rank}_TP0"] == [[str(rank)], "prefer:0"], output
        assert f"(EngineCore_DP{rank}) INFO affinity: already in force by strategy inherit: CPUs {rank}" in output
    assert output.count(ON) == 1


@pytest.mark.parametrize("environ", [{"AFFINITY_AUTO": "0"}, {"VLLM_PLUGINS": "other"}, {"VLLM_TARGET_DEVICE": "cpu"}])
def test_nothing_is_done_where_it_is_off(environ: dict[str, str]) -> None:
    """And no line of ours is logged; on vLLM for CPUs neither."""
    shown, output, status = start(**environ)
    assert status == 0, output
    assert shown == dict.fromkeys(NOTHING, unbound())
    assert "affinity: " not in output


@pytest.mark.parametrize("nodes", [None, [0, 0]])
def test_a_process_is_left_to_vllm_where_the_operator_asks_for_its_binding(nodes: list[int] | None) -> None:
    """`--numa-bind`, with and without `--numa-bind-nodes`; each process logs it."""
    shown, output, status = start(arguments={"numa_bind": True, "numa_bind_nodes": nodes})
    assert status == 0, output
    assert shown == dict.fromkeys(NOTHING, unbound())
    assert [output.count(f"vLLM binds {name}") for name in ("EngineCore 0", "worker 0", "worker 1")] == [1, 1, 1]
    for name in ("EngineCore", "worker 0", "worker 1"):
        assert output.count(f"affinity: vLLM: {name} is left to vLLM, as --numa-bind asks") == 1
    assert "each worker is bound" not in output


def test_this_package_binds_where_vllm_would_stop_because_its_caller_is_bound() -> None:
    """`affinity run -- vllm serve --numa-bind`: vLLM detects no nodes in a process with fewer CPUs."""
    prefix = (sys.executable, "-m", "affinity", "run", "--gpu", "0", "--")
    shown, output, status = start(prefix=prefix, arguments={"numa_bind": True})
    assert status == 0, output
    assert shown == {
        "server": [["0"], "prefer:0"], "DP0": [["0-1"], "prefer:0"],
        "DP0_TP0": [["0"], "prefer:0"], "DP0_TP1": [["1"], "prefer:0"],
    }  # fmt: skip
    assert "vLLM binds" not in output


def test_the_program_that_calls_vllm_is_left_alone_where_the_worker_is_in_it() -> None:
    """It has other work; the log has the remedy."""
    arguments = {"distributed_executor_backend": "uni", "tensor_parallel_size": 1}
    shown, output, _ = start(arguments=arguments, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    assert shown == {"server": unbound()}
    assert "worker 0 is the program that calls vLLM, and is left alone: call affinity.bind() in it" in output


def test_a_rank_of_torchrun_is_a_worker() -> None:
    """Executor `external_launcher`: the program is started for one GPU, and --numa-bind-nodes decides."""
    rank = {"TORCHELASTIC_RUN_ID": "a", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}
    arguments = {"distributed_executor_backend": "external_launcher"}
    shown, output, _ = start(arguments=arguments, VLLM_ENABLE_V1_MULTIPROCESSING="0", **rank)
    assert shown == {"server": [["1"], "prefer:0"]}, output
    assert "affinity: bound by strategy libnuma: CPUs 1" in output
    arguments |= {"numa_bind": True, "numa_bind_nodes": [0, 0], "numa_bind_cpus": ["0", "1"]}
    shown, output, _ = start(arguments=arguments, VLLM_ENABLE_V1_MULTIPROCESSING="0", **rank)
    assert shown == {"server": [unbound()[0], "prefer:0"]}, output
    assert "affinity: vLLM: worker 1: node 0 of --numa-bind-nodes decides" in output
    assert "affinity: vLLM: --numa-bind-cpus has no effect on workers of external_launcher: set " in output
    arguments |= {"numa_bind_nodes": [0]}
    shown, output, _ = start(arguments=arguments, VLLM_ENABLE_V1_MULTIPROCESSING="0", **rank)
    assert shown == {"server": unbound()}
    assert "affinity: this process is unbound: --numa-bind-nodes [0] has no node for worker 1" in output


IMPOSSIBLE = {"AFFINITY_ENFORCE": "required", "AFFINITY_POLICY": "explicit", "AFFINITY_CPUS": "4000|4001"}


@pytest.mark.parametrize(("environ", "words"), [
    (IMPOSSIBLE, "4000"),
    ({"AFFINITY_ENFORCE": "required", "AFFINITY_MEMORY": "perferred"}, "AFFINITY_MEMORY='perferred' does not parse"),
], ids=["impossible", "malformed"])  # fmt: skip
def test_required_stops_the_engine(environ: dict[str, str], words: str) -> None:
    """With the reason."""
    shown, output, status = start(**environ)
    assert status != 0
    assert words in output
    assert shown == {}


def test_a_malformed_setting_is_one_error_line_and_an_unbound_engine() -> None:
    """By spawn, where each process reads the settings."""
    shown, output, status = start(AFFINITY_MEMORY="perferred", **SPAWN)
    assert status == 0, output
    assert shown == dict.fromkeys(NOTHING, unbound())
    assert output.count("ERROR affinity: vLLM runs unbound: AFFINITY_MEMORY='perferred' does not parse") == 1
    assert output.count("affinity: ") == 1


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A newer release."""
    shape = tmp_path / "shape"
    shutil.copytree(SHAPE, shape)
    change(shape / "vllm/__init__.py", "0.33.0", "0.99.0")
    return shape


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_moved_start_is_one_warning_and_workers_that_bind_themselves(newer: Path) -> None:
    """It has the version, what is found and expected, and what still works; under `required` the engine stops."""
    for file in ("utils/numa_utils.py", "v1/engine/utils.py", "v1/executor/multiproc_executor.py"):
        change(newer / "vllm" / file, "configure_subprocess", "configure_process")
    shown, output, status = start(shape=newer, **SPAWN)
    assert status == 0, output
    assert shown == {
        "server": unbound(), "DP0": unbound(), "DP0_TP0": [["0"], "prefer:0"], "DP0_TP1": [["1"], "prefer:0"],
    }  # fmt: skip
    (line,) = (line for line in output.splitlines() if "was expected" in line)
    assert "affinity: in vllm 0.99.0, vllm.utils.numa_utils.configure_subprocess is missing, (vllm_config, loc" in line
    assert "EngineCore is unbound; a worker starts unbound, and binds itself before it opens its GPU; upgrade" in line
    shown, output, status = start(shape=newer, AFFINITY_ENFORCE="required")
    assert (status, shown) == (1, {})
    assert "vllm.utils.numa_utils.configure_subprocess is missing" in output


def test_workers_start_bound_where_the_other_function_has_moved(newer: Path) -> None:
    """Without a report of their own; a further argument of the start is passed on."""
    change(newer / "vllm/utils/numa_utils.py", '= "worker"):', '= "worker", nic=None):')
    change(newer / "vllm/v1/executor/multiproc_executor.py", 'kind="worker")', 'kind="worker", nic=1)')
    worker = newer / "vllm/v1/worker/worker_base.py"
    change(worker, "vllm_config, local_rank: int,", "config, local_rank: int,")
    change(worker, "self.vllm_config = vllm_config", "self.vllm_config = config")
    change(worker, "Worker(**", "Worker(config=all_kwargs[self.rpc_rank].pop('vllm_config'), **")
    shown, output, status = start(shape=newer)
    assert status == 0, output
    assert (shown["DP0_TP0"], shown["DP0_TP1"]) == ([["0"], "prefer:0"], [["1"], "prefer:0"])
    assert "already in force" not in output


def test_the_commands_of_the_page_run() -> None:
    """Those of this package; the engine's own are marked as read, and tests/engines runs the one of /proc."""
    page = (Path(__file__).parent.parent / "docs" / "howto" / "vllm.md").read_text()
    commands = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    own = [line for line in commands if line.startswith("affinity ")]
    assert len(own) == 2
    for line in own:
        command = [sys.executable, "-m", *line.split()]
        done = subprocess.run(command, env={**os.environ, **PLACEHOLDERS}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "numactl" in done.stdout


#: Four GPUs of one model, on buses 1 to 4; CPU 0 is next to those on even positions, CPU 1 to the others.
FOUR = "".join(f"gpu 00000000:0{i + 1}:00.0 GPU-{i}{i:07}-aaaa 0x2330 a GPU\nmemory {i} 0\n" for i in range(4))


@pytest.fixture(scope="module")
def four_gpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the fake driver with four GPUs."""
    pytest.importorskip("pynvml", reason="nvidia-ml-py is optional")
    folder = tmp_path_factory.mktemp("driver")
    placed = {"AFFINITY_DEVICES": "nvml", "AFFINITY_NODES": "", "AFFINITY_POLICY": "explicit"}
    return {**driver.environment(driver.build(folder), FOUR, folder), **placed, "AFFINITY_CPUS": "0|1|0|1"}


@pytest.mark.parametrize(("environ", "arguments", "gpus"), [
    ({}, {}, [[0, 1]]),
    ({"CUDA_VISIBLE_DEVICES": "3,0"}, {}, [[3, 0]]),
    ({"CUDA_VISIBLE_DEVICES": "GPU-2,GPU-1"}, {}, [[2, 1]]),
    ({}, {"data_parallel_size": 2}, [[0, 1], [2, 3]]),
    ({"CUDA_VISIBLE_DEVICES": "3,2,1,0"}, {"data_parallel_size": 2}, [[3, 2], [1, 0]]),
    ({}, {"assigned_physical_gpu_ids": [3, 0]}, [[3, 0]]),  # --device-ids
    ({"CUDA_VISIBLE_DEVICES": "0,3"}, {"assigned_physical_gpu_ids": [3, 0]}, [[3, 0]]),
    ({}, {"data_parallel_size": 2, "assigned_physical_gpu_ids": [3, 2, 1, 0]}, [[3, 2], [1, 0]]),
], ids=str)  # fmt: skip
def test_the_gpu_is_the_one_that_vllm_opens(
    four_gpus: dict[str, str], environ: dict[str, str], arguments: dict[str, Any], gpus: list[list[int]]
) -> None:
    """Whatever the order and form of CUDA_VISIBLE_DEVICES, and however the ranks are counted."""
    shown, output, status = start(arguments=arguments, **{**four_gpus, **environ})
    assert status == 0, output
    for dp_rank, shard in enumerate(gpus):
        for rank, gpu in enumerate(shard):
            name = f"DP{dp_rank}_TP{rank}"
            assert shown[name] == [[str(gpu % 2)], "prefer:0"]
            (line,) = (line for line in output.splitlines() if f"({name}) INFO affinity:" in line)
            assert f"0000:0{gpu + 1}:00.0" in line
