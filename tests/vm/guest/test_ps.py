"""`affinity ps` on a kernel with several nodes: what it shows of a server on a GPU of node 3.

The GPU alone is made up. The machine is that of test_attach.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import affinity
from affinity import CpuSet
from affinity.devices import Evidence, Gpu, GpuUse
from affinity.report.locality import Locality
from affinity.report.processes import GpuProcess, GpuProcesses
from affinity.topology import PciAddress

from .test_attach import (
    ARM,
    MIB,
    NODE_3,
    Server,
    c_server,
    no_balancing,
    on_node,
    own_pages,
    program,
    server,
    servers,
    share,
)

__all__ = ["c_server", "no_balancing", "program", "server"]  # fixtures

pytestmark = pytest.mark.machine("two-package")

GPU = Gpu(PciAddress.parse("0000:9d:00.0"), "nvidia", node=3)


def row(running: Server) -> GpuProcess:
    reader = GpuProcesses.of()
    reader.gpus = (GPU,)
    (found,) = reader.rows([GpuUse(running.pid, GPU.pci, Evidence.USES, "a test")])
    return found


@servers(*ARM)
def test_a_server_is_seen_where_it_is(server: Server) -> None:
    """20 threads and 256 MiB on node 0; free to run anywhere, then on the wrong node, then attached."""
    server.threads(19)
    on_node(server, 0, 256)
    found, truth = row(server), own_pages(server.pid)
    assert (found.assessment.locality, found.threads_inside) == (Locality.NOT_BOUND, 0)
    assert len(found.state.threads) == 20
    assert found.placement is not None
    assert found.placement.cpus == NODE_3
    assert found.state.resident is not None
    for node in range(4):
        assert share(dict(found.state.resident), node) == pytest.approx(share(truth, node), abs=0.05)
    assert found.local_share == pytest.approx(share(truth, 3), abs=0.05)
    for thread in found.state.threads:
        os.sched_setaffinity(thread, CpuSet([0, 1]))
    assert row(server).assessment.locality is Locality.REMOTE
    report = affinity.attach(server.pid, node=3, widen=True)
    found = row(server)
    assert (found.assessment.locality, found.threads_inside) == (Locality.LOCAL, 20), found.assessment
    assert found.bound is not None
    assert found.bound.strategy == "external"
    report.undo()
    found = row(server)
    assert (found.assessment.locality, found.bound) == (Locality.REMOTE, None)
    assert found.local_share is not None
    assert found.local_share > 0.9


def test_a_policy_that_takes_new_memory_elsewhere_is_seen(c_server: Server) -> None:
    """After an attach, which cannot change it."""
    on_node(c_server, 0, 64)
    assert c_server.order("policy", 2, 0) == "0"
    affinity.attach(c_server.pid, node=3)
    found = row(c_server).assessment
    assert found.locality is Locality.PARTLY
    assert found.reason == "new memory of 1 threads goes to node 0 (bind:0), which only they can change"
    assert found.remedy.startswith("restart it through `affinity run`")


@pytest.mark.usefixtures("no_balancing")
def test_a_server_of_512_mib_is_sampled_within_the_margin(c_server: Server) -> None:
    """Half of it on each of two nodes."""
    for node in (0, 3):
        on_node(c_server, node, 256)
    found, truth = row(c_server), own_pages(c_server.pid)
    assert found.state.resident is not None
    assert found.state.resident.sampled > 0
    assert found.local_share == pytest.approx(share(truth, 3), abs=0.05)


@pytest.fixture
def prompt_balancing() -> Iterator[None]:
    """Automatic NUMA balancing marks 64 MiB each tenth of a second that a process runs, not 256 MiB each second."""
    debug = Path("/sys/kernel/debug")
    if not (debug / "sched").exists():
        subprocess.run(["mount", "-t", "debugfs", "debugfs", debug], check=True)
    values = {"scan_delay_ms": "10", "scan_period_min_ms": "100", "scan_size_mb": "64"}
    settings = {debug / "sched/numa_balancing" / name: value for name, value in values.items()}
    before = {setting: setting.read_text() for setting in settings}
    for setting, value in settings.items():
        setting.write_text(value)
    yield
    for setting, text in before.items():
        setting.write_text(text)


@pytest.mark.usefixtures("prompt_balancing")  # set up before c_server: the delay is read at a process's start
def test_a_large_server_is_counted_while_balancing_hides_its_pages(c_server: Server) -> None:
    """While a part is marked, most of it on one node, a sample of what is left would show the other node's share."""
    if not (6, 1) <= tuple(map(int, os.uname().release.split(".")[:2])) <= (6, 5):
        pytest.skip("a page that automatic NUMA balancing has marked is hidden on Linux 6.1 to 6.5 alone")
    for node in (0, 3):
        on_node(c_server, node, 256)
    found, end = row(c_server), time.monotonic() + 120
    while found.state.resident is not None and found.state.resident.sampled and time.monotonic() < end:
        assert found.local_share == pytest.approx(share(own_pages(c_server.pid), 3), abs=0.1)
        c_server.order("stall", 0.1, 8 * MIB)  # the kernel marks pages of a process while that runs
        found = row(c_server)
    truth = own_pages(c_server.pid)
    assert found.state.resident is not None
    assert found.state.resident.sampled == 0
    assert found.local_share == pytest.approx(share(truth, 3), abs=0.01)
