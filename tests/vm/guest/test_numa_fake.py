"""A kernel that shows one node as four with the same CPUs (`numa=fake=4`) is a machine like any other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import affinity
from affinity import CpuSet, Host, NodeSet
from affinity.api import plan_each
from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.kernel.linux import THIS_PROCESS

from ..machines import Machine
from .confined import affinity_command

pytestmark = pytest.mark.machine("numa-fake")

ALL = NodeSet(range(4))


@pytest.fixture(autouse=True)
def gpus(machine: Machine) -> Iterator[list[str]]:
    """The addresses of the two GPUs, reported to be on nodes 0 and 2."""
    addresses = [gpu.address for gpu in machine.visible_gpus]
    files = [Path(f"/sys/bus/pci/devices/{address}/numa_node") for address in addresses]
    before = [file.read_text() for file in files]
    for file, node in zip(files, ("0", "2"), strict=True):
        file.write_text(node)
    yield addresses
    for file, node in zip(files, before, strict=True):
        file.write_text(node)


def test_the_kernel_shows_nodes_that_share_their_cpus(machine: Machine) -> None:
    """And memory of its own for each."""
    topology = Host.live().topology
    assert NodeSet(topology.by_id) == topology.memory_nodes == ALL
    assert {node.cpus for node in topology.nodes} == {CpuSet(machine.online_cpus)}
    assert topology.sharing_nodes(2) == ALL
    assert len(topology.cpus) == len(machine.online_cpus)


def test_show_and_plan(machine: Machine, gpus: list[str]) -> None:
    """Each worker gets all CPUs and its own node's memory; a split gives each core to one of them."""
    done = affinity_command("show", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert [(gpu["name"], gpu["node"]) for gpu in shown["gpus"]] == sorted(zip(gpus, (0, 2), strict=True))
    assert [node["cpus"] for node in shown["nodes"]] == [str(CpuSet(machine.online_cpus))] * 4
    memory = {str(p.launch.gpus[0]): str(p.placement and p.placement.memory) for p in plan_each()}
    assert memory == {gpus[0]: "preferred:0", gpus[1]: "preferred:2"}
    halves = [p.placement and p.placement.cpus for p in plan_each(settings=affinity.Settings(policy="exclusive"))]
    assert sorted(map(str, halves)) == ["0-1", "2-3"]


def test_bind_moves_the_pages_to_the_gpus_own_node(gpus: list[str]) -> None:
    """Verified by the kernel, and undone."""
    block = bytearray(32 << 20)  # on the first node of the CPU
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    report = affinity.bind(gpu=gpus[1])
    assert report.satisfied
    assert report.degradations == ()
    assert THIS_PROCESS.get_mempolicy() == MemoryPolicy(MemoryMode.PREFERRED, NodeSet([2]))
    resident = THIS_PROCESS.resident_bytes()
    assert resident[2] >= 0.99 * sum(resident.values())
    report.undo()
    assert THIS_PROCESS.get_mempolicy() == MemoryPolicy()


def test_run_starts_the_command_with_the_gpus_own_memory(gpus: list[str]) -> None:
    """Through numactl."""
    command = [str(Path(sys.executable).with_name("affinity")), "run", "--gpu", gpus[1], "--"]
    done = subprocess.run([*command, "numactl", "--show"], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("policy: preferred\npreferred node: 2\n")
