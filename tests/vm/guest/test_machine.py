"""Each machine is what its declaration states."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from ..machines import Machine

pytestmark = pytest.mark.machine

NODES = Path("/sys/devices/system/node")
PCI = Path("/sys/bus/pci/devices")

with_nodes = pytest.mark.machine(
    *("two-package", "grace", "memoryless", "sparse", "single"), *("arm-two-package", "arm-grace", "arm-16k")
)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as sysfs lists them: 0-3,6."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(f"{a}-{b}" if a < b else f"{a}" for a, b in spans)


def test_processors(machine: Machine) -> None:
    online = Path("/sys/devices/system/cpu/online").read_text().strip()
    assert online == ranges(machine.online_cpus)
    assert os.sched_getaffinity(0) == set(machine.online_cpus)


def test_pages(machine: Machine) -> None:
    assert (os.uname().machine, mmap.PAGESIZE) == (machine.architecture, machine.page_size)


@with_nodes
def test_online_nodes(machine: Machine) -> None:
    numbers = [node.number for node in machine.online_nodes]
    assert (NODES / "online").read_text().strip() == ranges(numbers)
    assert {path.name for path in NODES.glob("node*")} == {f"node{n}" for n in numbers}


@with_nodes
def test_processors_of_nodes(machine: Machine) -> None:
    lists = {node.number: (NODES / f"node{node.number}/cpulist").read_text().strip() for node in machine.online_nodes}
    assert lists == {node.number: ranges(machine.cpus(node)) for node in machine.online_nodes}


@with_nodes
def test_nodes_with_memory(machine: Machine) -> None:
    numbers = [node.number for node in machine.online_nodes if node.memory]
    assert (NODES / "has_memory").read_text().strip() == ranges(numbers)
    for node in machine.online_nodes:
        meminfo = (NODES / f"node{node.number}/meminfo").read_text()
        match = re.search(r"MemTotal:\s+([0-9]+) kB", meminfo)
        assert match is not None
        mebibytes = int(match[1]) / 1024
        # The kernel keeps some for itself.
        assert node.memory * 0.8 <= mebibytes <= node.memory


@with_nodes
def test_distances(machine: Machine) -> None:
    rows = {here.number: (NODES / f"node{here.number}/distance").read_text().split() for here in machine.online_nodes}
    assert rows == {
        here.number: [str(machine.distance(here, there)) for there in machine.online_nodes]
        for here in machine.online_nodes
    }


@pytest.mark.machine("numa-off")
def test_one_node_without_numa(machine: Machine) -> None:
    assert (NODES / "online").read_text().strip() == "0"
    assert (NODES / "node0/cpulist").read_text().strip() == ranges(machine.online_cpus)


@pytest.mark.machine("no-numa")
def test_no_nodes_listed() -> None:
    assert not NODES.exists()
    assert Path("/sys/devices/system/cpu/online").exists()


def test_gpus(machine: Machine) -> None:
    found = {
        path.name: (
            (path / "vendor").read_text().strip(),
            int((path / "numa_node").read_text()),
            (path / "local_cpulist").read_text().strip(),
        )
        for path in PCI.iterdir()
        if (path / "class").read_text().startswith("0x03")
    }
    expected = {}
    for gpu in machine.visible_gpus:
        number, cpus = -1, machine.online_cpus
        for node in machine.online_nodes:
            if node.number == gpu.node and machine.numa == "on":
                number, cpus = node.number, machine.cpus(node)
        expected[gpu.address] = ("0x1002", number, ranges(cpus))
    assert found == expected


@with_nodes
def test_numactl_agrees(machine: Machine) -> None:
    reported = subprocess.run(["numactl", "--hardware"], capture_output=True, text=True, check=True).stdout
    numbers = [node.number for node in machine.online_nodes]
    assert f"available: {len(numbers)} nodes ({ranges(numbers)})" in reported
    cpus = {
        int(match[1]): [int(cpu) for cpu in match[2].split()]
        for match in re.finditer(r"^node ([0-9]+) cpus:(.*)$", reported, re.MULTILINE)
    }
    assert cpus == {node.number: list(machine.cpus(node)) for node in machine.online_nodes}


def test_surroundings(machine: Machine) -> None:
    """What tests may count on: control groups, loopback, somewhere to write."""
    cgroup = Path("/sys/fs/cgroup")
    if machine.cgroup == 1:
        assert (cgroup / "cpuset/cpuset.cpus").exists()
    else:
        assert "cpuset" in (cgroup / "cgroup.subtree_control").read_text()
    group = cgroup / ("cpuset/probe" if machine.cgroup == 1 else "probe")
    group.mkdir()
    assert (group / "cpuset.cpus").exists()
    group.rmdir()
    assert "UP" in subprocess.run(["ip", "link", "show", "lo"], capture_output=True, text=True, check=True).stdout
    for directory in (Path("/tmp"), Path("/dev/shm"), Path("/run"), Path("/")):
        probe = directory / "probe"
        probe.write_text("probe")
        probe.unlink()
