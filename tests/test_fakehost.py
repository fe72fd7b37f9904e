"""The simulated kernel is held to the real one; and a binding on a FakeHost is a binding."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_cases import simulated

from affinity import CpuSet, Host, MemoryMode, NodeSet
from affinity.testing import SimulatedKernel

GiB = 1 << 30


def on_linux(scenario: str) -> dict[str, str]:
    """Every case's answer from the kernel of this machine, in a process of its own."""
    script = Path(__file__).with_name("kernel_cases.py")
    done = subprocess.run([sys.executable, script, scenario], capture_output=True, text=True, timeout=100, check=False)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    answers: dict[str, str] = json.loads(done.stdout)
    return answers


def differences(real: dict[str, str], simulation: dict[str, str]) -> str:
    """A line for each case that Linux and the simulation answer differently."""
    assert real.keys() == simulation.keys()
    wrong = [name for name in real if real[name] != simulation[name]]
    return "\n".join(f"{name}: Linux says {real[name]}, the simulation {simulation[name]}" for name in wrong)


def modes_of_this_kernel() -> frozenset[MemoryMode]:
    """weighted-interleave is Linux 6.9's, preferred-many Linux 5.15's."""
    release = tuple(int(n) for n in Path("/proc/sys/kernel/osrelease").read_text().split("-")[0].split(".")[:2])
    late = {MemoryMode.WEIGHTED_INTERLEAVE: (6, 9), MemoryMode.PREFERRED_MANY: (5, 15)}
    return frozenset(m for m in MemoryMode if release >= late.get(m, (0, 0)))


def test_the_simulation_answers_every_call_as_linux_does() -> None:
    """The same calls, with sets inside, partly outside and outside of what is there, on this very machine."""
    host = Host.live()
    make = lambda: SimulatedKernel(  # noqa: E731
        host.topology, mask=host.allowed_cpus, mems=host.allowed_nodes, modes=modes_of_this_kernel()
    )
    assert differences(on_linux("FREE"), simulated(host.topology, make)) == ""


def test_the_simulation_confines_as_a_linux_cpuset_does() -> None:
    """In a cpuset of one CPU and one node: a set partly outside is cut, one wholly outside refused."""
    host = Host.live()
    cpus, nodes = CpuSet([host.allowed_cpus.first()]), NodeSet([host.allowed_nodes.first()])
    make = lambda: SimulatedKernel(  # noqa: E731
        host.topology, cpuset=cpus, mems=nodes, modes=modes_of_this_kernel()
    )
    assert differences(on_linux("CONFINED"), simulated(host.topology, make)) == ""
