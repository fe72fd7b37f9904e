"""The plugin of SGLang in an engine of SGLang's shape (tests/engines/sglang_shape): real starts, read from /proc.

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

SHAPE = Path(__file__).parent / "engines" / "sglang_shape"

#: GPU i is next to CPU i.
PLACEHOLDERS = {"AFFINITY_NODES": "0,0", "AFFINITY_POLICY": "exclusive", "AFFINITY_DEVICES": "pci"}

BOUND = {"TP0": [["0"], "prefer:0"], "TP1": [["1"], "prefer:0"]}


def start(*, shape: Path = SHAPE, arguments: dict[str, Any] | None = None, **environ: str) -> tuple[Any, str, int]:
    """Return what /proc shows of each process of an engine, the engine's output, and its exit status."""
    done = subprocess.run(
        [sys.executable, str(shape / "start.py"), json.dumps(arguments or {})],
        env={**os.environ, **PLACEHOLDERS, **environ},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    shown = next((json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")), {})
    return shown, done.stdout + done.stderr, done.returncode


def unbound() -> list[Any]:
    """The state of a process that nothing has bound."""
    allowed = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("Cpus_allowed_list"))
    return [[allowed.split()[1]], "default"]


@pytest.mark.parametrize("environ", [
    {},
    {"SGLANG_AUTO_NUMA_BIND": "0"},  # SGLang's own switch of its own binding
    {"SGLANG_PLUGINS": "other,affinity"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("dp_size", [1, 2])
def test_each_scheduler_starts_on_its_gpu_and_the_other_processes_are_left_alone(
    dp_size: int, environ: dict[str, str]
) -> None:
    """By the launching process, and by the controller of data parallelism; SGLang's own binding is not called."""
    shown, output, status = start(arguments={"dp_size": dp_size}, **environ)
    assert status == 0, output
    assert shown == {**BOUND, "detokenizer": unbound(), "server": unbound()}
    assert output.count("affinity: SGLang: each worker is bound to the NUMA node of its GPU") == 1
    assert output.count("AFFINITY_AUTO=0 turns it off") == 1
    for rank in (0, 1):
        assert (
            f"[TP{rank}] affinity: already in force by strategy numactl: CPUs {rank} and memory preferred:0" in output
        )
    assert "SGLang starts a scheduler" not in output


@pytest.mark.parametrize("environ", [{"AFFINITY_AUTO": "0"}, {"SGLANG_PLUGINS": "other"}], ids=str)
def test_nothing_is_done_where_it_is_off(environ: dict[str, str]) -> None:
    """SGLang binds as it does without this package, and no line of ours is logged."""
    shown, output, status = start(**environ)
    assert (status, shown["TP0"], shown["TP1"]) == (0, unbound(), unbound())
    assert output.count("SGLang starts a scheduler") == 2
    assert "affinity: " not in output


def test_the_first_generation_is_strategy_legacy_in_the_scheduler() -> None:
    """SGLANG_NUMA_BIND_V2=0 through the rule table; SGLang's own V1 and its CPU slices are not done."""
    shown, output, status = start(SGLANG_NUMA_BIND_V2="0", SGLANG_SET_CPU_AFFINITY="1")
    assert status == 0, output
    assert {name: shown[name] for name in BOUND} == BOUND
    assert "[TP1] affinity: bound by strategy legacy: CPUs 1" in output
    assert "SGLang binds to a node" not in output
    assert "SGLang sets CPUs" not in output
    assert "[TP0] affinity: SGLang: numa_bind_to_node has no effect" in output


def test_what_sglang_does_in_its_scheduler_is_done_where_this_package_binds_nothing() -> None:
    """With strategy `noop`, a scheduler is as if this package were not there."""
    shown, output, _ = start(SGLANG_NUMA_BIND_V2="0", SGLANG_SET_CPU_AFFINITY="1", AFFINITY_STRATEGY="noop")
    assert shown["TP0"] == unbound()
    assert (output.count("SGLang binds to a node"), output.count("SGLang sets CPUs")) == (2, 2)


def test_the_engines_own_node_list_decides() -> None:
    """`--numa-node 0 0`: both schedulers have the whole node, and the log names the option."""
    shown, output, _ = start(arguments={"numa_node": [0, 0]})
    assert shown["TP1"] == [unbound()[0], "prefer:0"]
    assert "affinity: SGLang: GPU 1: node 0 of --numa-node decides" in output


def test_a_scheduler_of_device_cpu_is_left_to_sglang() -> None:
    """Its number is no GPU's."""
    shown, output, _ = start(arguments={"device": "cpu"})
    assert shown["TP0"] == unbound()
    assert output.count("SGLang starts a scheduler") == 2


IMPOSSIBLE = {"AFFINITY_ENFORCE": "required", "AFFINITY_POLICY": "explicit", "AFFINITY_CPUS": "4000|4001"}


@pytest.mark.parametrize("dp_size", [1, 2])
@pytest.mark.parametrize(("environ", "words"), [
    (IMPOSSIBLE, "4000"),
    ({"AFFINITY_ENFORCE": "required", "AFFINITY_MEMORY": "perferred"}, "AFFINITY_MEMORY='perferred' does not parse"),
], ids=["impossible", "malformed"])  # fmt: skip
def test_required_stops_the_engine(environ: dict[str, str], words: str, dp_size: int) -> None:
    """With the reason; also from a thread of the controller, which would wait for it for ever."""
    shown, output, status = start(arguments={"dp_size": dp_size}, **environ)
    assert status != 0
    assert words in output
    assert shown == {}


def test_a_malformed_setting_is_an_error_line_and_an_engine_without_this_package() -> None:
    """SGLang binds as it does alone."""
    shown, output, status = start(AFFINITY_MEMORY="perferred")
    assert (status, shown["TP0"]) == (0, unbound())
    assert output.count("affinity: SGLang runs unbound: AFFINITY_MEMORY='perferred' does not parse") == 1
    assert output.count("SGLang starts a scheduler") == 2


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A newer release, which starts its schedulers with another signature."""
    shape = tmp_path / "shape"
    shutil.copytree(SHAPE, shape)
    for name, old, new in [
        ("sglang/__init__.py", "0.5.23", "0.9.9"),
        ("sglang/srt/utils/numa_utils.py", "(server_args, gpu_id: int)", "(gpu_id: int, server_args)"),
        ("sglang/srt/entrypoints/engine.py", "configure_subprocess(server_args, gpu_id)",
         "configure_subprocess(gpu_id, server_args)"),
    ]:  # fmt: skip
        text = (shape / name).read_text()
        assert old in text
        (shape / name).write_text(text.replace(old, new))
    return shape


def test_a_moved_hook_is_one_warning_and_an_engine_that_runs(moved: Path) -> None:
    """It has the version, what is found and expected, and what still works."""
    shown, output, status = start(shape=moved)
    assert (status, shown["TP0"]) == (0, unbound())
    (line,) = (line for line in output.splitlines() if "affinity: " in line)
    assert "in sglang 0.9.9, sglang.srt.utils.numa_utils.configure_subprocess takes (gpu_id, server_args)" in line
    assert "(server_args, gpu_id) was expected: schedulers that multiprocessing starts are bound as SGLang" in line


def test_a_moved_hook_stops_the_engine_under_required(moved: Path) -> None:
    """Its plugin loader goes on after an Exception."""
    shown, output, status = start(shape=moved, AFFINITY_ENFORCE="required")
    assert (status, shown) == (1, {})
    assert "affinity: in sglang 0.9.9, sglang.srt.utils.numa_utils.configure_subprocess takes" in output


def test_the_commands_of_the_page_run() -> None:
    """Those of this package; the engine's own are marked as read, and tests/engines runs the one of /proc."""
    page = (Path(__file__).parent.parent / "docs" / "howto" / "sglang.md").read_text()
    commands = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    own = [line for line in commands if line.startswith("affinity ")]
    assert len(own) == 2
    for line in own:
        command = [sys.executable, "-m", *line.split()]
        done = subprocess.run(command, env={**os.environ, **PLACEHOLDERS}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "numactl" in done.stdout


@pytest.fixture(scope="module")
def four_gpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the fake driver with four GPUs."""
    return {**os.environ, **driver.four_gpus(tmp_path_factory.mktemp("driver"))}


@pytest.mark.parametrize(("environ", "arguments", "gpus"), [
    ({}, {}, [0, 1]),
    ({"CUDA_VISIBLE_DEVICES": "3,0"}, {}, [3, 0]),
    ({"CUDA_VISIBLE_DEVICES": "GPU-2,GPU-1"}, {}, [2, 1]),
    ({}, {"base_gpu_id": 2}, [2, 3]),  # as under RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES
    ({"CUDA_VISIBLE_DEVICES": "1,0,3,2"}, {"base_gpu_id": 2}, [3, 2]),
    ({"CUDA_VISIBLE_DEVICES": "3,0", "SGLANG_ONE_VISIBLE_DEVICE_PER_PROCESS": "1"}, {}, [3, 0]),
    ({"SGLANG_ONE_VISIBLE_DEVICE_PER_PROCESS": "1"}, {"base_gpu_id": 1}, [1, 2]),
    ({"CUDA_VISIBLE_DEVICES": "GPU-3,GPU-2", "SGLANG_ONE_VISIBLE_DEVICE_PER_PROCESS": "1"}, {"dp_size": 2}, [3, 2]),
    ({"CUDA_VISIBLE_DEVICES": "3,0"}, {"dp_size": 2}, [3, 0]),
], ids=str)  # fmt: skip
def test_the_number_that_sglang_gives_is_the_ordinal_of_cuda(
    four_gpus: dict[str, str], environ: dict[str, str], arguments: dict[str, Any], gpus: list[int]
) -> None:
    """Whatever the order and form of CUDA_VISIBLE_DEVICES, and however the ranks are counted."""
    shown, output, status = start(arguments=arguments, **{**four_gpus, **environ})
    assert status == 0, output
    for rank, gpu in enumerate(gpus):
        assert shown[f"TP{rank}"] == [[str(gpu % 2)], "prefer:0"]
        (line,) = (line for line in output.splitlines() if f"[TP{rank}] affinity:" in line)
        assert f"0000:0{gpu + 1}:00.0" in line
