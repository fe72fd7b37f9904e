"""`affinity bench` on nodes that are there: where each run of a command was, and the memory that is measured."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from worker import node_cpus

from ..machines import Machine

pytestmark = pytest.mark.machine("two-package")

#: Its last CPU, as a number: that of the node, for a process that is on one.
STATE = "import os; print('last CPU', max(os.sched_getaffinity(0)))"


def test_a_worker_that_binds_itself(machine: Machine) -> None:
    """It follows AFFINITY_NODES elsewhere."""
    last = {node: max(cpus) for node, cpus in node_cpus().items() if cpus}
    gpu = machine.visible_gpus[0]
    assert gpu.node is not None
    program = f"import affinity; affinity.bind(gpu='{gpu.address}'); {STATE}"
    command = [sys.executable, "-m", "affinity", "bench", "--command", f'{sys.executable} -c "{program}"', "--json",
               "--metric", "last CPU (.*)", "--rounds", "2"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = {run["name"]: run["values"] for run in json.loads(done.stdout)["runs"]}
    assert found["unbound"] == [max(last.values())] * 2
    assert found["bound"] == [last[gpu.node]] * 2
    assert set(found["elsewhere"]) <= set(last.values()) - {last[gpu.node]}


def test_the_memory_that_is_measured_is_of_the_node() -> None:
    """Whatever node the CPUs are of: by move_pages(2), page for page."""
    nodes = sorted(node_cpus())
    program = (
        "from affinity.kernel import MemoryMode, MemoryPolicy\n"
        "from affinity.kernel.linux import LinuxKernel\n"
        "from affinity.kernel.memory_speed import new_pages\n"
        "from affinity.kernel.syscalls import page_nodes\n"
        f"for node in {nodes}:\n"
        "    LinuxKernel().set_mempolicy(MemoryPolicy(MemoryMode.BIND, {node}))\n"
        "    pages = new_pages(4 << 20)\n"
        "    first = pages.ctypes.data\n"
        "    print(*set(page_nodes(0, range(first, first + pages.size, 4096))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(map(str, nodes))


def test_an_emulated_processor_is_not_measured() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "affinity", "bench"], capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("affinity: nothing to compare: the processor is emulated")
