"""The rounds of `affinity watch` on simulated machines: what is asked about, what is decided, what is logged."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
from collections.abc import Callable, Collection, Sequence

import attrs
import pytest
from commands import COMMAND
from test_processes import Provider, Providers

from affinity import CpuSet, Host, NodeSet, Settings
from affinity.devices import EVERY_PROCESS, DeviceError, DeviceProvider, Evidence, Gpu, GpuUse, ProcessFilter, Support
from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.plugins import Plugins
from affinity.report.processes import GpuProcesses
from affinity.testing import FakeHost, SimulatedKernel
from affinity.watch import Watch


class Driver(DeviceProvider):
    """Lists what a test gives it, by PID and GPU; `asked` has the filter of each round."""

    driver_vendors = frozenset({"nvidia"})

    def __init__(self) -> None:
        self.listed: list[tuple[int, int]] = []
        self.evidence = Evidence.USES
        self.error: Exception | None = None
        self.asked: list[ProcessFilter] = []

    def supports(self, host: Host) -> Support:
        return Support.yes()

    def devices(self, host: Host, settings: Settings) -> tuple[Gpu, ...]:
        return ()

    def processes(self, host: Host, gpus: Sequence[Gpu], asked: ProcessFilter = EVERY_PROCESS) -> Sequence[GpuUse]:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
        return [GpuUse(pid, gpus[gpu].pci, self.evidence, "a test") for pid, gpu in self.listed]


class Node:
    """A simulated machine that is watched, with a clock of its own."""

    def __init__(self, user: int | None = 0, **settings: object) -> None:
        self.fake = FakeHost("dgx-h100")
        plugins = Plugins()
        self.driver = Driver()
        plugins.devices = Providers({"nvml": self.driver, "pci": Provider(None)})  # type: ignore[assignment]
        chosen = Settings(devices=("pci",), **settings)  # type: ignore[arg-type]
        reader = GpuProcesses.of(self.fake.host, chosen)
        reader = attrs.evolve(reader, plugins=plugins, settings=attrs.evolve(chosen, devices=()))
        self.now = 1000.0
        self.watch = Watch(reader, user, clock=lambda: self.now)

    def start(self, gpu: int | None = 7, age: float = 0.0) -> SimulatedKernel:
        process = self.fake.start_process(threads=3, size=1 << 20)
        process.seconds = age
        if gpu is not None:
            self.driver.listed.append((process.pid, gpu))
        return process

    def round(self, seconds: float = 1.0) -> ProcessFilter:
        """A round after so many seconds; return what the driver was asked about."""
        self.now += seconds
        self.watch.round()
        return self.driver.asked[-1]


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The lines logged since the last call."""
    caplog.set_level(logging.INFO, logger="affinity.watch")

    def taken() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name == "affinity.watch"]
        caplog.clear()
        return found

    return taken


NODE_1 = CpuSet.parse("56-111,168-223")


def has(pids: Collection[int] | None, process: SimulatedKernel) -> bool:
    assert pids is not None
    return process.pid in pids


def test_what_is_decided_is_not_asked_about_again(node: Node, lines: Callable[[], list[str]]) -> None:
    """Bound, refused, left alone or local: one line each, and neither its driver nor its open files are looked at."""
    bound, pinned, policy, local = (node.start() for _ in range(4))
    pinned.set_affinity(0, CpuSet([0, 1]))
    policy.set_mempolicy(MemoryPolicy(MemoryMode.BIND, NodeSet([0])))
    for tid in local.masks:
        local.set_affinity(tid, NODE_1)
    local.migrate_pages(NodeSet([0]), NodeSet([1]))
    first = node.round()
    everything = (bound, pinned, policy, local)
    assert all(has(first.pids, one) and has(first.files_of, one) for one in everything)
    assert [line.partition(": ")[2].partition(" by strategy")[0].partition(";")[0] for line in lines()] == [
        f"process {bound.pid} (root, 'server'): bound",
        f"process {pinned.pid} (root, 'server'): left alone: its CPU mask 0-1 was set by something else, its cpuset "
        "has CPUs 0-223",
        f"process {policy.pid} (root, 'server'): left alone: it has memory policy bind:0 of its own",
        f"process {local.pid} (root, 'server'): local: its threads may run on CPUs {NODE_1} alone",
    ]
    assert [set(one.masks.values()) for one in (bound, policy)] == [{NODE_1}, {node.fake.topology.online}]
    assert bound.pages_by_node == {1: 1 << 20}
    bound.set_affinity(0, node.fake.topology.online)  # by its owner, since
    for _ in range(3):
        later = node.round(400)
        assert not any(has(later.pids, one) or has(later.files_of, one) for one in everything)
    assert (lines(), bound.masks[bound.pid]) == ([], node.fake.topology.online)


def test_a_process_without_a_gpu_is_looked_at_again_ever_more_rarely(node: Node) -> None:
    """Its open files, after a quarter of its age and five minutes at most. A driver's list of it counts at once."""
    young, old = node.start(None), node.start(None, age=7200)
    looks: dict[int, list[float]] = {young.pid: [], old.pid: []}
    for _ in range(3600):
        asked = node.round()
        assert has(asked.pids, young)
        assert has(asked.pids, old)
        for pid in asked.files_of or ():
            if pid in looks:
                looks[pid].append(node.now - 1001)
    assert looks[young.pid][:8] == [0, 1, 2, 3, 4, 5, 7, 9]
    assert max(b - a for a, b in zip(looks[young.pid], looks[young.pid][1:], strict=False)) == 300
    assert looks[old.pid] == [300 * n for n in range(12)]
    node.driver.listed.append((old.pid, 7))
    node.round()
    assert set(old.masks.values()) == {NODE_1}


def test_what_is_unknown_is_looked_at_again(node: Node, lines: Callable[[], list[str]]) -> None:
    """Files of GPUs on both nodes have one line; the driver lists its GPU later, and it is bound."""
    process = node.start(0, age=40)
    node.driver.listed.append((process.pid, 7))
    node.driver.evidence = Evidence.MAY_USE
    assert has(node.round().pids, process)
    assert not has(node.round().pids, process)
    assert has(node.round(10).pids, process)
    (line,) = lines()
    assert "left alone: unknown: it has the device files of GPUs on several nodes open" in line
    node.driver.evidence, node.driver.listed = Evidence.USES, [(process.pid, 7)]
    node.round(20)
    (line,) = lines()
    assert f"process {process.pid} (root, 'server'): bound by strategy external" in line


def test_a_process_of_another_user_is_not_touched(lines: Callable[[], list[str]]) -> None:
    """Nor logged; one that becomes this user's later is bound then."""
    node = Node(user=1000)
    process = node.start(age=8)
    node.round()
    node.round()
    assert (lines(), set(process.masks.values())) == ([], {node.fake.topology.online})
    process.user = 1000
    node.round(2)
    assert set(process.masks.values()) == {NODE_1}


def test_it_ends_between_two_processes(node: Node) -> None:
    """What was begun is finished, what was not is not begun."""
    processes = [node.start() for _ in range(3)]
    answers = iter([False, False, True])
    node.watch.run(1, lambda seconds: next(answers))
    assert [set(process.masks.values()) for process in processes] == [{NODE_1}, {NODE_1}, {node.fake.topology.online}]


def test_a_provider_that_fails_is_one_warning(node: Node, lines: Callable[[], list[str]]) -> None:
    """Also one that comes back and fails again; meanwhile the others answer, and then it does."""
    process = node.start()
    for _ in range(2):
        for error in (DeviceError("nvml: no driver; load it"), DeviceError("nvml: no driver; load it"), None):
            node.driver.error = error
            node.round()
    found = lines()
    assert found[0] == "affinity: nvml: no driver; load it"
    assert [f"process {process.pid} " in line for line in found] == [False, True]
    node.driver.error = ZeroDivisionError("a mistake")
    node.round()
    (line,) = lines()
    assert "a mistake" in line


def test_an_error_of_one_process_costs_the_others_nothing(node: Node, lines: Callable[[], list[str]]) -> None:
    """One that refuses, one that ends meanwhile."""
    refusing, ending, other = (node.start() for _ in range(3))

    def refuse(tid: int, cpus: CpuSet) -> bool:
        if tid in ending.masks:
            ending.end()
            return True
        return tid in refusing.masks

    node.fake.kernel.refuse("set_affinity", errno.EPERM, when=refuse)
    node.round()
    found = lines()
    assert len(found) == 3
    assert f"process {refusing.pid} " in found[0]
    assert "): not bound: " in found[0]
    assert "CAP_SYS_NICE" in found[0]
    assert f"process {ending.pid} (root, 'server'): not bound: process {ending.pid} ended" in found[1]
    assert set(other.masks.values()) == {NODE_1}
    node.round()
    assert lines() == []


def test_a_pid_that_changes_hands_between_the_look_and_the_bind_is_left_alone(
    node: Node, lines: Callable[[], list[str]]
) -> None:
    """The process that has it then was not looked at."""
    process = node.start()
    processes = node.fake.kernel._machine.processes

    def change_hands(*_: object) -> bool:  # at the last call of the look, which reads its pages
        other = node.fake.start_process()
        processes[process.pid] = other
        return False

    node.fake.kernel.refuse("resident", errno.EIO, when=change_hands)
    node.round()
    (line,) = lines()
    assert "not bound: process" in line
    assert "its PID is another process's now" in line
    assert set(processes[process.pid].masks.values()) == {node.fake.topology.online}


def test_under_required_a_process_that_cannot_be_bound_whole_is_left_as_it_was(lines: Callable[[], list[str]]) -> None:
    """AFFINITY_ENFORCE counts as for `attach`."""
    node = Node(required=True)
    process = node.start()
    node.fake.kernel.refuse("set_affinity", errno.EINVAL, when=lambda tid, cpus: tid == process.pid + 2)
    node.round()
    assert set(process.masks.values()) == {node.fake.topology.online}
    (line,) = lines()
    assert f"process {process.pid} (root, 'server'): not bound: required" in line


def test_a_process_whose_policies_cannot_be_read_is_left_alone(node: Node, lines: Callable[[], list[str]]) -> None:
    """It may have one of its own."""
    process = node.start()
    node.fake.kernel.refuse("get_mempolicy", errno.EACCES)
    node.round()
    assert set(process.masks.values()) == {node.fake.topology.online}
    (line,) = lines()
    assert "left alone: its memory policies cannot be read: Permission denied" in line


def test_the_name_of_a_process_cannot_write_lines(node: Node, lines: Callable[[], list[str]]) -> None:
    """It is its owner's to choose."""
    process = node.start()
    process.argv = ["/bin/x\naffinity: process 1 (root, 'init'): bound", "y"]
    node.round()
    (line,) = lines()
    assert "\n" not in line


@pytest.mark.parametrize(("nodes", "words"), [("0", "1 GPU"), ("0,0", "2 GPUs")])
def test_its_first_line_counts_the_gpus(nodes: str, words: str) -> None:
    """On this machine, with placeholders."""
    environ = {**os.environ, "AFFINITY_NODES": nodes, "AFFINITY_DEVICES": "pci"}
    with subprocess.Popen([COMMAND, "watch", "--dry-run"], stderr=subprocess.PIPE, text=True, env=environ) as watch:
        assert watch.stderr is not None
        first = watch.stderr.readline()
        watch.terminate()
    assert first.startswith(f"affinity: watching {words} every 1 s, ")
