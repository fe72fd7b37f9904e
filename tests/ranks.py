"""A training program for ranks of real launchers, and what the kernel showed each of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

#: GPU i is next to CPU i.
STAND_INS = {"AFFINITY_NODES": "0,0", "AFFINITY_POLICY": "explicit", "AFFINITY_CPUS": "0|1", "AFFINITY_DEVICES": "pci"}

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
