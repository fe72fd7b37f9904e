"""The framework on the machines that are like no other: each GPU's worker, against the kernel's own word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from affinity import CpuSet

from ..machines import Gpu, Machine

pytestmark = pytest.mark.machine("grace", "memoryless", "sparse", "single", "no-numa")


def expected(machine: Machine, gpu: Gpu) -> tuple[str, str, str]:
    """CPUs, memory policy and whether anything is done, by the machine's declaration alone."""
    with_cpus = [node for node in machine.online_nodes if node.slots]
    here = next((node for node in machine.online_nodes if node.number == gpu.node), None)
    if machine.numa != "on" or len(with_cpus) < 2 or here is None:
        return str(CpuSet(machine.online_cpus)), "default", "noop"
    # Without memory of its own, first touch takes the nearest; there is no node to prefer.
    return str(CpuSet(machine.cpus(here))), f"preferred:{here.number}" if here.memory else "default", "libnuma"


def test_each_gpus_worker_binds_itself_and_goes_back(machine: Machine, tmp_path: Path) -> None:
    """By PCI address; where there is nothing to gain, nothing is touched. The undo is verified by the call itself."""
    script = tmp_path / "workers.py"
    script.write_text(
        """
import sys, affinity
from affinity.host.kernel import LINUX
for address in sys.argv[1:]:
    report = affinity.bind(gpu=address)
    print(LINUX.get_affinity(), LINUX.get_mempolicy(), report.strategy, *report.degradations)
    report.undo()
print(LINUX.get_affinity(), LINUX.get_mempolicy())
"""
    )
    gpus = machine.visible_gpus
    command = [sys.executable, str(script), *(gpu.address for gpu in gpus)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    *each, after = done.stdout.splitlines() or [done.stderr]
    assert each == [" ".join(expected(machine, gpu)) for gpu in gpus]
    assert after == f"{CpuSet(machine.online_cpus)} default"


@pytest.mark.machine("grace")
def test_a_command_runs_beside_its_gpu(machine: Machine) -> None:
    """Through numactl where it binds."""
    gpu = machine.visible_gpus[-1]
    look = "import affinity; from affinity.host.kernel import LINUX as k; print(k.get_affinity(), k.get_mempolicy())"
    command = [sys.executable, "-m", "affinity", "run", "--gpu", gpu.address, "--", sys.executable, "-c", look]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert (done.stdout, done.stderr) == (" ".join(expected(machine, gpu)[:2]) + "\n", "")


@pytest.mark.machine("grace")
def test_a_cpu_that_went_offline_after_a_bind_is_no_limit(tmp_path: Path) -> None:
    """The mask is then not the one that was set, and still nobody has narrowed it."""
    script = tmp_path / "worker.py"
    script.write_text(
        """
import affinity, pathlib
from affinity.host.kernel import LINUX
affinity.bind(node=1)
pathlib.Path("/sys/devices/system/cpu/cpu7/online").write_text("0")
print(LINUX.get_affinity())
report = affinity.bind(node=0)
print(LINUX.get_affinity(), LINUX.get_mempolicy(), report.satisfied)
"""
    )
    try:
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240, check=False)
    finally:
        Path("/sys/devices/system/cpu/cpu7/online").write_text("1")
        os.sched_setaffinity(0, range(8))
    assert done.stdout == "4-6\n0-3 preferred:0 True\n", done.stderr
