"""The framework on the machines that are like no other: each GPU's worker, against the kernel's own word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import affinity
from affinity import CpuSet
from affinity.kernel.linux import THIS_PROCESS

from ..machines import Gpu, Machine

pytestmark = pytest.mark.machine("grace", "arm-grace", "memoryless", "sparse", "single", "no-numa")


def state() -> tuple[str, str]:
    """The calling thread's CPUs and memory policy."""
    return str(THIS_PROCESS.get_affinity()), str(THIS_PROCESS.get_mempolicy())


def expected(machine: Machine, gpu: Gpu) -> tuple[str, str, str]:
    """CPUs, memory policy and whether anything is done, by the machine's declaration alone."""
    with_cpus = [node for node in machine.online_nodes if node.slots]
    here = next((node for node in machine.online_nodes if node.number == gpu.node), None)
    if machine.numa != "on" or len(with_cpus) < 2 or here is None:
        return str(CpuSet(machine.online_cpus)), "default", "noop"
    # Without memory of its own, first touch takes the nearest; there is no node to prefer.
    return str(CpuSet(machine.cpus(here))), f"preferred:{here.number}" if here.memory else "default", "libnuma"


def test_each_gpus_worker_binds_itself_and_goes_back(machine: Machine) -> None:
    """By PCI address; where there is nothing to gain, nothing is touched. The undo is verified by the call itself."""
    before = state()
    assert before == (str(CpuSet(machine.online_cpus)), "default")
    for gpu in machine.visible_gpus:
        report = affinity.bind(gpu=gpu.address)
        assert (*state(), report.strategy) == expected(machine, gpu)
        assert report.degradations == ()
        report.undo()
        assert state() == before


@pytest.mark.machine("grace", "arm-grace")
def test_a_cpu_that_went_offline_after_a_bind_is_no_limit(tmp_path: Path) -> None:
    """The mask is then not the one that was set, and still no one has narrowed it."""
    script = tmp_path / "worker.py"
    script.write_text(
        """
import affinity, pathlib
from affinity.kernel.linux import THIS_PROCESS
affinity.bind(node=1)
pathlib.Path("/sys/devices/system/cpu/cpu7/online").write_text("0")
print(THIS_PROCESS.get_affinity())
report = affinity.bind(node=0)
print(THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy(), report.satisfied)
"""
    )
    try:
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240, check=False)
    finally:
        Path("/sys/devices/system/cpu/cpu7/online").write_text("1")
        os.sched_setaffinity(0, range(8))
    assert done.stdout == "4-6\n0-3 preferred:0 True\n", done.stderr
