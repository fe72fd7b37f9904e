"""The simulated kernel is held to the real one; and a binding on a FakeHost is a binding."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kernel_cases import simulated

import affinity
from affinity import BindError, CpuSet, Host, LaunchMode, NodeSet, Settings, UsageError
from affinity.errors import ForeignHostError, ListFormatError
from affinity.integrations.engine import own_strategy
from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.kernel.linux import THIS_PROCESS
from affinity.testing import Executed, FakeHost, SimulatedKernel, machines, programs
from affinity.testing.simkernel import PAGE
from affinity.topology import Origin

GiB = 1 << 30
REQUIRED = Settings.from_environ({"AFFINITY_ENFORCE": "required"})


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
    return "\n".join(f"{name}: Linux states {real[name]}, the simulation {simulation[name]}" for name in wrong)


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


def test_a_bind_on_a_fake_host_is_a_bind() -> None:
    """All threads, the policy and the pages; and again, and back."""
    fake = FakeHost("dgx-h100", threads=20)
    fake.kernel.touch(GiB)
    report = affinity.bind(gpu="0000:9d:00.0", host=fake.host)
    node_1 = CpuSet.parse("56-111,168-223")
    assert report.satisfied
    assert set(fake.kernel.masks.values()) == {node_1}
    assert fake.kernel.policies[fake.kernel.thread_id()] == MemoryPolicy(MemoryMode.PREFERRED, NodeSet([1]))
    assert fake.kernel.pages_by_node == {1: GiB}
    changes = fake.kernel.changes
    assert affinity.bind(gpu="0000:9d:00.0", host=fake.host).already_bound
    assert fake.kernel.changes == changes
    report.undo()
    assert set(fake.kernel.masks.values()) == {fake.topology.online}
    assert "node 1: CPUs 56-111,168-223 of package 1" in str(fake)


@pytest.mark.parametrize("strategy", ["numactl", "inherit"])
def test_a_worker_started_on_a_fake_host_is_born_bound(strategy: str) -> None:
    """Through the rewritten command line, which also shows it whose worker it is."""
    fake = FakeHost("gb200", environ={"AFFINITY_STRATEGY": strategy})
    settings = Settings.from_environ(fake.kernel.environ)
    with affinity.spawning(gpu=3, host=fake.host, settings=settings):
        worker = fake.start_worker()
    before = len(fake.kernel.changes)
    assert set(worker.kernel.masks.values()) == {CpuSet.parse("72-143")}
    report = affinity.bind(host=worker.host)
    assert (report.launch.mode, report.already_bound, report.satisfied) == (LaunchMode.SPAWN, True, True)
    assert len(fake.kernel.changes) == before
    assert set(fake.kernel.masks.values()) == {fake.topology.online}


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EINVAL])
def test_refused_memory_policies_walk_down_the_ladder(number: int) -> None:
    """CPUs only, with the errno reported; required: everything as it was."""
    fake = FakeHost("dgx-h100")
    fake.kernel.refuse("set_mempolicy", number)
    report = affinity.bind(gpu=7, host=fake.host)
    assert report.degradations
    assert set(fake.kernel.policies.values()) == {MemoryPolicy()}
    assert set(fake.kernel.masks.values()) == {CpuSet.parse("56-111,168-223")}
    strict = FakeHost("dgx-h100")
    strict.kernel.refuse("set_mempolicy", number)
    with pytest.raises(BindError):
        affinity.bind(gpu=7, host=strict.host, settings=REQUIRED)
    assert set(strict.kernel.masks.values()) == {strict.topology.online}


def test_a_kernel_without_preferred_many_refuses_it() -> None:
    """As one before Linux 5.15 does."""
    kernel = SimulatedKernel(machines.load("dgx-h100"), modes={MemoryMode.DEFAULT, MemoryMode.PREFERRED})
    with pytest.raises(OSError, match="Invalid argument"):
        kernel.set_mempolicy(MemoryPolicy(MemoryMode.PREFERRED_MANY, NodeSet([0, 1])))


def test_a_full_node_spills_under_preferred_and_kills_under_bind() -> None:
    """Why `preferred` is the default."""
    fake = FakeHost("dgx-h100", free={0: GiB, 1: GiB})
    fake.kernel.set_mempolicy(MemoryPolicy(MemoryMode.PREFERRED, NodeSet([1])))
    fake.kernel.touch(GiB + PAGE)
    assert fake.kernel.pages_by_node == {0: PAGE, 1: GiB}
    fake.kernel.set_mempolicy(MemoryPolicy(MemoryMode.BIND, NodeSet([1])))
    with pytest.raises(MemoryError, match="bind:1"):
        fake.kernel.touch(PAGE)


def test_pages_that_do_not_fit_stay_and_are_reported() -> None:
    """migrate_pages to a node with half the room: ENOMEM, the rest where it was, nothing lost."""
    fake = FakeHost("dgx-h100", free={0: GiB, 1: GiB // 2})
    fake.kernel.touch(GiB)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        fake.kernel.migrate_pages(NodeSet([0]), NodeSet([1]))
    assert fake.kernel.pages_by_node == {0: GiB // 2, 1: GiB // 2}


def test_a_refusal_can_be_meant_for_some_arguments_only() -> None:
    """One thread of another user among ours."""
    fake = FakeHost(threads=2)
    other = fake.kernel.threads()[1]
    fake.kernel.refuse("set_affinity", errno.EPERM, when=lambda tid, cpus: tid == other)
    fake.kernel.set_affinity(0, CpuSet([0]))
    with pytest.raises(PermissionError):
        fake.kernel.set_affinity(other, CpuSet([0]))
    assert [(c.name, c.errno) for c in fake.kernel.changes] == [("set_affinity", 0), ("set_affinity", errno.EPERM)]
    fake.kernel.permit("set_affinity")
    fake.kernel.set_affinity(other, CpuSet([0]))


def test_a_refusal_of_a_call_that_does_not_exist_is_an_error() -> None:
    """A test that refuses nothing proves nothing."""
    with pytest.raises(ValueError, match="sched_setaffinity"):
        FakeHost().kernel.refuse("sched_setaffinity", errno.EPERM)


def test_an_exec_ends_threads_and_pages_and_keeps_mask_and_policy() -> None:
    """And wrapping programs act on the way."""
    fake = FakeHost(threads=3)
    fake.kernel.touch(GiB)
    with pytest.raises(Executed) as became:
        fake.kernel.exec(["numactl", "--physcpubind=8-15", "--membind=1", "--", "server", "-x"], {})
    assert became.value.argv == ["server", "-x"]
    kernel = became.value.kernel
    assert (kernel.pid, list(kernel.masks.values())) == (fake.kernel.pid, [CpuSet.parse("8-15")])
    assert list(kernel.policies.values()) == [MemoryPolicy(MemoryMode.BIND, NodeSet([1]))]
    assert kernel.pages_by_node == {}


@pytest.mark.parametrize(
    ("options", "allowed", "printed"),
    [
        (["--physcpubind=8"], "0-7", "out of range"),
        (["--membind=1"], "0-7", "out of range"),
        (["--no-such-option"], "0-7", "not recognized"),
    ],
)
def test_numactl_refuses_here_what_it_refuses_there(options: list[str], allowed: str, printed: str) -> None:
    """What lies outside the cpuset; what it does not find."""
    fake = FakeHost(allowed_cpus=CpuSet.parse(allowed), allowed_nodes=NodeSet([0]))
    assert printed in (fake.kernel.check_command(["numactl", *options, "true"], 1.0) or "")


@pytest.mark.parametrize("options", [["--physcpubind=0"], ["-C", "0-0"], ["--membind=0"], ["--preferred=0"]])
def test_the_real_numactl_leaves_the_state_that_the_simulated_one_leaves(options: list[str]) -> None:
    """The same command line, on this machine and on a simulation of it."""
    host = Host.live()
    reported = (
        "from kernel_cases import state; from affinity.kernel.linux import THIS_PROCESS; print(state(THIS_PROCESS))"
    )
    real = subprocess.run(
        ["numactl", *options, sys.executable, "-c", reported],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    kernel = SimulatedKernel(host.topology, mask=host.allowed_cpus, mems=host.allowed_nodes)
    assert programs.run(["numactl", *options, "true"], kernel) == ["true"]
    mask, policy = kernel.masks[kernel.pid], kernel.policies[kernel.pid]
    assert real.stdout.strip() == f"CPUs {mask}, policy {policy}"


def test_a_machine_whose_nodes_share_their_cpus_is_bound_like_any_other() -> None:
    """A kernel with `numa=fake=4`: GPU 1 is on node 2, whose CPUs are everyone's and whose memory is its own."""
    fake = FakeHost("numa-fake", threads=3)
    fake.kernel.touch(1 << 20)
    assert fake.kernel.pages_by_node == {0: 1 << 20}  # the first node of the CPU
    report = affinity.bind(gpu=1, host=fake.host)
    assert report.satisfied
    assert report.observed.policy == MemoryPolicy(MemoryMode.PREFERRED, NodeSet([2]))
    assert fake.kernel.pages_by_node == {2: 1 << 20}
    assert set(fake.kernel.masks.values()) == {fake.topology.online}
    assert affinity.bind(gpu=1, host=fake.host).already_bound


def test_an_installed_fake_host_is_the_machine_of_every_call_without_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of this process is bound; after the block this process is the one again."""
    before = THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy(), dict(os.environ)
    fake = FakeHost("dgx-h100", threads=3, environ={"AFFINITY_MEMORY": "bind"})
    with fake.installed() as same:
        assert same is fake
        monkeypatch.setenv("AFFINITY_SMT", "one")
        planned = affinity.plan(gpu=4)
        server = fake.start_process()
        affinity.attach(server.pid, gpu=0)
        with affinity.restored():
            affinity.bind(gpu=0)
        report = affinity.bind(gpu=4)
        assert affinity.current_report() is report
        assert own_strategy() == report.strategy
        assert os.environ["AFFINITY_BOUND"]
    assert report.requested == planned.placement
    assert set(server.masks.values()) == {CpuSet.parse("0-55")}
    assert set(fake.kernel.masks.values()) == {CpuSet.parse("56-111")}
    assert fake.kernel.policies[fake.kernel.pid] == MemoryPolicy(MemoryMode.BIND, NodeSet([1]))
    assert affinity.bind(gpu=4, host=fake.host).already_bound  # the record of the bind is still its own
    assert affinity.current_report() is not report
    assert Host.live().topology.origin is Origin.LIVE
    assert (THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy(), dict(os.environ)) == before


def test_an_installed_worker_has_the_environment_that_its_parent_had_at_its_start() -> None:
    """And writes into its own; the parent's, and that of the test, are as before after the block."""
    before = dict(os.environ)
    fake = FakeHost("gb200")
    with fake.installed():
        os.environ["CUDA_VISIBLE_DEVICES"] = "2,3"
        with affinity.spawning(gpu=1):
            worker = fake.start_worker()
        del os.environ["CUDA_VISIBLE_DEVICES"]
        with worker.installed():
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
            assert "CUDA_VISIBLE_DEVICES" not in fake.kernel.environ
            report = affinity.bind()
            os.environ["OWN"] = "1"
        assert "OWN" not in os.environ
        assert fake.kernel.environ is os.environ
    assert report.already_bound
    assert report.launch.gpu_nodes == NodeSet([1])
    assert worker.kernel.environ["OWN"] == "1"
    assert dict(os.environ) == before


def started_for_real(fake: FakeHost, how: str) -> None:
    """Start a process of `multiprocessing`, as an engine that is tested on a fake host."""
    if how == "plain":
        with fake.installed():
            multiprocessing.get_context("fork").Process(target=print).start()
    elif how == "context":
        affinity.get_context("spawn", gpu=1, host=fake.host).Process(target=print).start()
    else:
        with affinity.spawning(gpu=1, host=fake.host):
            multiprocessing.get_context(how).Process(target=print).start()


@pytest.mark.parametrize("how", ["spawn", "fork", "forkserver", "context", "plain"])
def test_a_fake_host_starts_no_real_process(how: str) -> None:
    """The error names what starts a simulated one; outside of the block every start is as before."""
    fake = FakeHost("gb200")
    with pytest.raises(ForeignHostError, match=r"FakeHost\.start_worker"):
        started_for_real(fake, how)
    assert multiprocessing.active_children() == []
    assert set(fake.kernel.masks.values()) == {fake.topology.online}
    after = multiprocessing.get_context("fork").Process(target=print)
    after.start()
    after.join()
    assert after.exitcode == 0


def test_threads_of_an_installed_fake_host_bind_it_as_well() -> None:
    """An engine binds a worker from a thread that it has started."""
    fake = FakeHost("dgx-h100")
    with fake.installed(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(affinity.bind, gpu=4).result().satisfied
    assert fake.kernel.changes


def test_a_fake_host_takes_sets_as_text() -> None:
    """As an operator writes them, and as a CpuSet prints them."""
    fake = FakeHost("dgx-h100", allowed_cpus="0-15,56", allowed_nodes="1", mask="0-3,56")
    assert (fake.kernel.cpuset, fake.kernel.allowed_memory) == (CpuSet([*range(16), 56]), NodeSet([1]))
    assert fake.host.allowed_cpus == CpuSet("0-3,56")
    fake.kernel.narrow(cpuset="2-3")
    assert set(fake.kernel.masks.values()) == {CpuSet([2, 3])}
    with pytest.raises(ListFormatError, match="'node1' in 'node1' is no node list"):
        FakeHost("dgx-h100", allowed_nodes="node1")
    assert str(fake.topology.cpus_of("1")) == "56-111,168-223"  # type: ignore[arg-type]
    for wrong in ({"allowed_cpus": "200-300"}, {"allowed_nodes": "2"}, {"free": {9: GiB}}):
        with pytest.raises(UsageError, match="not on the machine"):
            FakeHost("dgx-h100", **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a CpuSet does not mix with a str"):
        fake.kernel.set_affinity(0, "2")  # type: ignore[arg-type]
    machine = machines.Machine((machines.MachineNode(0, "0-3", GiB),), offline="3", allowed_cpus="0,1")
    assert FakeHost(machine).host.allowed_cpus == CpuSet([0, 1])
