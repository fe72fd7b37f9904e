"""A training program for ranks of real launchers, what the kernel showed each rank, and the commands of the pages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import driver

#: GPU i is next to CPU i.
PLACEHOLDERS = {
    "AFFINITY_NODES": "0,0",
    "AFFINITY_POLICY": "explicit",
    "AFFINITY_CPUS": "0|1",
    "AFFINITY_DEVICES": "pci",
}

#: What the kernel shows of each thread; then what `bind()` does, and again; then a data loader's and a program's CPUs.
TRAIN = """
import json, multiprocessing, os, subprocess, sys

def cpus():
    masks = set()
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/status") as status:
            masks.update(line.split()[1] for line in status if line.startswith("Cpus_allowed_list:"))
    return sorted(masks)

def load(queue):
    import affinity
    affinity.bind()
    queue.put(cpus())

if __name__ == "__main__":
    started = cpus()
    with open("/proc/self/numa_maps") as maps:
        policy = maps.readline().split()[1]
    import affinity
    already = affinity.bind().already_bound
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=load, args=(queue,))
    child.start()
    loaded = queue.get()
    child.join()
    command = ["sh", "-c", "grep Cpus_allowed_list /proc/self/status"]
    program = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]
    with open(f"{sys.argv[1]}/{os.getpid()}", "w") as out:
        json.dump([started, policy, already, cpus(), loaded, program], out)
"""


def program(folder: Path) -> tuple[str, ...]:
    """Write the program; return the command line of a rank."""
    (folder / "train.py").write_text(TRAIN)
    (folder / "ranks").mkdir()
    return sys.executable, str(folder / "train.py"), str(folder / "ranks")


def found(folder: Path) -> list[str]:
    """The CPUs of each rank, at its start and ever after, in order."""
    ranks = []
    for path in (folder / "ranks").iterdir():
        started, policy, already, bound, loaded, program = json.loads(path.read_text())
        (cpus,) = started
        assert policy == "prefer:0"
        assert already, "bind() had something to do"
        assert (bound, loaded, program) == (started, started, cpus)
        ranks.append(cpus)
    return sorted(ranks)


PAGES = Path(__file__).parent.parent / "docs/howto"
ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
#: The names on a machine that has both; more ranks than cores are allowed.
MPI = {"mpirun ": "mpirun.openmpi --oversubscribe ", "mpiexec ": "mpiexec.hydra "}


def shown_commands(page: str) -> list[str]:
    """The commands of a page's shell blocks, without the installation and blocks that are marked as read, not run."""
    blocks = re.findall(r"```sh\n(.*?)```\n\n(\*\(Read, not run)?", (PAGES / page).read_text(), re.DOTALL)
    lines = [line for block, read in blocks if not read for line in block.splitlines()]
    return [line for line in lines if not line.startswith("pip install ")]


def check_shown_command(line: str, folder: Path) -> None:
    """Run a command of a page with two ranks, the training program and the fake driver; check what the page states.

    The node of each GPU is the driver's: AFFINITY_NODES would be a request to bind, also with AFFINITY_AUTO=0.
    """
    is_off, is_explain = line.startswith("AFFINITY_AUTO=0 "), line.endswith(" affinity explain")
    runs_program = line.endswith(" train.py") and not is_off
    train = " ".join(program(folder)) if runs_program else "grep Cpus_allowed_list /proc/self/status"
    command = line.replace(" 8 ", " 2 ").replace("python train.py", train)
    command = command.replace(" train.py", f" {train.partition(' ')[2]}")  # a script, without the interpreter
    for name, real in MPI.items():
        command = re.sub(rf"(^| ){name}", rf"\g<1>{real}", command)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, **driver.four_gpus(folder / "driver"), **ROOT, "PATH": path}
    done = subprocess.run(["env", *command.split()], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if is_explain:
        expected = "launch mode torchrun: TORCHELASTIC_RUN_ID" if "torchrun" in line else "Set here, and changes"
        assert done.stdout.count(expected) == 2, done.stdout
    elif runs_program:
        assert found(folder) == ["0", "1"]
    else:
        shown = sorted(re.findall(r"Cpus_allowed_list:\s*(\S+)", done.stdout))
        assert shown == (["0-1", "0-1"] if is_off else ["0", "1"])
