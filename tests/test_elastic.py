"""Ranks that torch, accelerate and DeepSpeed start. The tox environment `torch` has all three."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from ranks import PAGES, PLACEHOLDERS, check_shown_command, shown_commands

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
    done = subprocess.run(
        [*command, out], env={**os.environ, **PLACEHOLDERS}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        seen = json.loads(Path(f"{out}{rank}").read_text())
        assert seen == ["torchrun", rank, 2, [rank], [True, [rank]]]


COMMANDS = shown_commands("torchrun.md")


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_page_run(tmp_path: Path, line: str) -> None:
    """`affinity run --` between each launcher and the program, and no line of the program changed."""
    launcher = next(name for name in LAUNCHERS if f"{name} " in line)
    needs("torch" if launcher == "torchrun" else launcher)
    check_shown_command(line, tmp_path)


LAUNCHERS = ("torchrun", "accelerate", "deepspeed")


def test_each_launcher_has_a_command_on_the_page() -> None:
    """None is left out unseen."""
    assert [name for name in LAUNCHERS if not any(f"{name} " in line for line in COMMANDS)] == []


def test_the_ranks_that_are_functions_of_the_page_are_bound(tmp_path: Path) -> None:
    """Its program, as it is."""
    (text,) = re.findall(r"```python\n(.*?)```", (PAGES / "torchrun.md").read_text(), re.DOTALL)
    (tmp_path / "train.py").write_text(text)
    command, environ = [sys.executable, str(tmp_path / "train.py")], {**os.environ, **PLACEHOLDERS}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"in force: CPUs (\S+), memory policy preferred:0", done.stdout)) == ["0", "1"]
