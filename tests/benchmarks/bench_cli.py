"""`affinity run` and `affinity plan` against their peers.

run: against Python with the same packages imported, that becomes the same command; as figures against numactl, and
against importing PyTorch's binding, where torch is installed. plan: a tree of 64 nodes, 4,096 CPUs and 64 GPUs,
against hwloc's lstopo-no-graphics on the same tree.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from _timing import milliseconds, ratio, wall

from affinity.testing import trees
from affinity.testing.machines.model import GiB, Machine, MachineGpu, even_nodes
from affinity.topology.model import PciAddress

AFFINITY = str(Path(sys.executable).parent / "affinity")
PYTHON = 'import attrs, stevedore, click, os; os.execvp("true", ["true"])'


def large() -> Machine:
    """64 nodes of 64 CPUs, each with a GPU."""
    nodes = even_nodes(64, cores=32, threads=2, memory=64 * GiB, packages=16)
    gpus = tuple(MachineGpu(PciAddress(i // 16, 0x10 * (i % 16) + 1, 0, 0), i) for i in range(64))
    return Machine(nodes, threads=2, l3_cores=8, gpus=gpus)


def run() -> bool:
    commands = {
        "affinity run": [AFFINITY, "run", "--node", "0", "--", "true"],
        "python": [sys.executable, "-c", PYTHON],
    }
    if shutil.which("numactl"):
        commands["numactl"] = ["numactl", "--physcpubind=0", "true"]
    if importlib.util.find_spec("torch"):
        commands["torch"] = [sys.executable, "-c", "import torch.numa.binding"]
    times = milliseconds(commands, 25)
    good = ratio("run, processor time", "affinity run", "python", times, 1.2)
    ratio("run, by the clock", "affinity run", "python", wall(commands, 25))
    for other in ("numactl", "torch"):
        if other in times:
            ratio("run, as a figure", "affinity run", other, times)
        else:
            print(f"run, as a figure: {other} is not installed here")
    return good


def plan() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        root = trees.write(large(), folder)
        commands = {
            "affinity plan": [AFFINITY, "plan", "--gpu", "all", "--root", root],
            "affinity plan --json": [AFFINITY, "plan", "--gpu", "all", "--root", root, "--json"],
        }
        if shutil.which("lstopo-no-graphics") is None:
            print("plan: lstopo-no-graphics is not installed here (Debian: hwloc-nox)")
            return True
        commands["lstopo"] = ["lstopo-no-graphics", "--of", "console"]
        environ = {**os.environ, "HWLOC_FSROOT": root, "HWLOC_COMPONENTS": "linux,stop", "HWLOC_THISSYSTEM": "0"}
        times = milliseconds(commands, 7, environ)
        table = ratio("plan of 64 GPUs", "affinity plan", "lstopo", times, 1.0)
        return ratio("plan of 64 GPUs", "affinity plan --json", "lstopo", times, 1.0) and table


def main() -> int:
    good = [run(), plan()]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
