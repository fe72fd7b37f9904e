"""`affinity watch` on a kernel with several nodes: servers that come, on the GPU of node 3.

Which processes use the GPU is made up; the GPU is a PCI device of the machine. The machine is that of test_attach.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from affinity import CpuSet, Settings
from affinity.devices import EVERY_PROCESS, Evidence, GpuUse, ProcessFilter
from affinity.report.processes import GpuProcesses
from affinity.watch import Watch

from .test_attach import ALL, MIB, NODE_3, Server, on_node, own_pages, program, share

__all__ = ["program"]  # a fixture

pytestmark = pytest.mark.machine("two-package")


class Listed(GpuProcesses):
    """The reader on a machine whose driver lists all of the test's servers."""

    pids: tuple[int, ...] = ()

    def uses(self, asked: ProcessFilter = EVERY_PROCESS) -> tuple[list[GpuUse], list[str]]:
        gpu = next(gpu for gpu in self.gpus if gpu.node == 3)
        return [GpuUse(pid, gpu.pci, Evidence.USES, "a test") for pid in self.pids if asked.has(pid)], []


def test_a_server_that_comes_is_brought_to_its_node(program: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With its pages; one with a mask, and one with a memory policy, of its own are left as they are."""
    caplog.set_level(logging.INFO, "affinity.watch")
    reader = Listed.of(settings=Settings(devices=("pci",)))
    assert isinstance(reader, Listed)
    watch = Watch(reader, user=None)
    with ExitStack() as ends:
        free, pinned, policy = [ends.enter_context(Server(program)) for _ in range(3)]
        servers = free, pinned, policy
        for server in servers:
            server.threads(4)
            on_node(server, 0, 32)
        for thread in pinned.masks():
            os.sched_setaffinity(thread, {0, 1})
        assert policy.order("policy", 2, 0) == "0"
        watch.round()
        assert caplog.messages == []
        reader.pids = tuple(server.pid for server in servers)
        watch.round()
        assert [server.mask() for server in servers] == [NODE_3, CpuSet([0, 1]), ALL]
        assert [share(own_pages(server.pid), 3) >= 0.99 for server in servers] == [True, False, False]
        for server in servers:
            server.order("touch", 16 * MIB)
        assert share(own_pages(free.pid), 3) >= 0.99
        assert own_pages(policy.pid).get(3, 0) < MIB
        messages = [next(line for line in caplog.messages if f"process {server.pid} " in line) for server in servers]
        assert "bound by strategy external: CPUs 6-7 and memory preferred:3" in messages[0]
        assert "left alone: its CPU mask 0-1 was set by something else, its cpuset has CPUs 0-7" in messages[1]
        assert "left alone: it has memory policy bind:0 of its own" in messages[2]
        watch.round()
        assert len(caplog.messages) == len(servers)
