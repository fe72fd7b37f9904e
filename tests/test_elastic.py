"""Ranks that torch, accelerate and DeepSpeed start. The tox environment `torch` has all three."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import COMMAND
from ranks import STAND_INS, found, program

pytestmark = [
    pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed: tox run -e torch"),
    pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="needs CPUs 0 and 1"),
    pytest.mark.timeout(180),
]

PROGRAM = """
import json, os, sys
import affinity
from torch.utils.data import DataLoader, Dataset

class Loaded(Dataset):
    def __len__(self): return 1
    def __getitem__(self, _):
        return [affinity.bind().satisfied, sorted(os.sched_getaffinity(0))]

def rank():
    report = affinity.bind()
    (loaded,) = DataLoader(Loaded(), batch_size=None, num_workers=1, multiprocessing_context=sys.argv[1])
    launch = report.launch
    return [launch.launcher, launch.local_rank, launch.local_size, sorted(os.sched_getaffinity(0)), loaded]

def write():
    with open(sys.argv[3] + os.environ["LOCAL_RANK"], "w") as file: json.dump(rank(), file)

if __name__ == "__main__":
    if sys.argv[2] == "rank":
        write()
    elif sys.argv[2] == "notebook":
        from accelerate import notebook_launcher
        notebook_launcher(write, num_processes=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0")
    else:
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="test", rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", start_method=sys.argv[1], monitor_interval=0.1,
        )
        for place, found in elastic_launch(config, rank)().items():
            with open(sys.argv[3] + str(place), "w") as file: json.dump(found, file)
"""


def needs(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: tox run -e torch")


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("start", ["elastic_launch(function)", "notebook_launcher", "torchrun"])
def test_ranks_of_torch_and_their_data_loaders_are_next_to_their_gpu(tmp_path: Path, start: str, method: str) -> None:
    """A rank by `elastic_launch` is a child of multiprocessing, and has its local rank all the same."""
    script, out = tmp_path / "train.py", str(tmp_path / "rank")
    script.write_text(PROGRAM)
    command = [sys.executable]
    if start == "torchrun":
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), method, "rank"]
    elif start == "notebook_launcher":
        needs("accelerate")
        command += [str(script), method, "notebook"]
    else:
        command += [str(script), method, "launch"]
    done = subprocess.run([*command, out], env={**os.environ, **STAND_INS}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        seen = json.loads(Path(f"{out}{rank}").read_text())
        assert seen == ["torchrun", rank, 2, [rank], [True, [rank]]]


#: As a person types them, with what a machine without GPUs needs.
LAUNCHERS = {
    "torchrun": "torchrun --standalone --no-python --nproc-per-node 2",
    "accelerate": "accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no --no_python",
    "deepspeed": "deepspeed --num_gpus 2 --no_python --no_local_rank",
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ranks_of_a_real_launcher_become_their_command_bound(tmp_path: Path, launcher: str) -> None:
    """`affinity run --` between the launcher and the program, and no line of the program changed."""
    needs("torch" if launcher == "torchrun" else launcher)
    name, *options = LAUNCHERS[launcher].split()
    command = [str(Path(sys.executable).parent / name), *options, COMMAND, "run", "--", *program(tmp_path)]
    done = subprocess.run(command, env={**os.environ, **STAND_INS}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found(tmp_path) == ["0", "1"]
