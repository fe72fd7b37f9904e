"""Each strategy in each launch mode it serves, on a kernel with several nodes, against that kernel's own word."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from worker import node_cpus

import affinity
from affinity import Host

pytestmark = pytest.mark.machine("two-package", "arm-two-package", "arm-16k")

WORKER = str(Path(__file__).parent / "worker.py")
MIB = 64


def run(mode: str, strategy: str, node: int, *, mib: int = MIB, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """A worker's life, in a process of its own."""
    command = [*prefix, sys.executable, WORKER, mode, strategy, str(node), str(mib)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def share(pages: dict[str, int], node: int) -> float:
    """Of pages by node, those on this one."""
    return pages.get(str(node), 0) / sum(pages.values())


def bound_threads(found: dict[str, Any], node: int) -> float:
    """Share of threads whose mask is exactly the node's CPUs."""
    return sum(set(m) == node_cpus()[node] for m in found["masks"].values()) / len(found["masks"])


@pytest.mark.parametrize("strategy", ["libnuma", "inherit"])
def test_in_process_every_thread_and_page_moves(strategy: str) -> None:
    """Twenty threads, pages touched before on every node; then pages and threads that come after."""
    found = run("inline", strategy, 2)
    assert (found["strategy"], found["satisfied"], found["degradations"]) == (strategy, True, [])
    assert bound_threads(found, 2) == 1
    assert found["policy"] == "prefer:2"
    assert share(found["early"], 2) >= 0.99
    assert share(found["late"], 2) == 1
    assert found["share"] >= 0.99
    assert found["moved"] >= 0.7 * (MIB << 20)


def test_each_launch_mode_that_has_started_the_worker(tmp_path: Path) -> None:
    """As a launcher's variables show it; by each strategy that serves it: the mask and the policy, and back."""
    launchers = {
        "inline": {},
        "torchrun": {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"},
        "mpi": {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"},
        "slurm": {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "0"},
    }
    script = tmp_path / "worker.py"
    script.write_text(
        """
import json, os, sys, affinity
from affinity.kernel.linux import THIS_PROCESS
launchers = json.loads(sys.argv[1])
known = {name for variables in launchers.values() for name in variables}
for mode, variables in launchers.items():
    for name in known: os.environ.pop(name, None)
    os.environ.update(variables)
    for strategy in ("libnuma", "inherit", "legacy"):
        report = affinity.bind(node=2, settings=affinity.Settings(strategies=(strategy,)))
        now = THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy()
        print(mode, report.launch.mode.value, strategy, report.strategy, *now)
        report.undo()
"""
    )
    command = [sys.executable, str(script), json.dumps(launchers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    there = affinity.CpuSet(node_cpus()[2])
    assert done.stdout.splitlines() == [
        f"{mode} {mode} {strategy} {strategy} {there} preferred:2"
        for mode in launchers
        for strategy in ("libnuma", "inherit", "legacy")
    ]


def test_pages_that_another_process_shares_stay_where_they_are(tmp_path: Path) -> None:
    """Its text, or an object store's memory: with CAP_SYS_NICE the kernel would move them under its feet."""
    script = tmp_path / "shares.py"
    script.write_text(
        """
import mmap, os, signal, affinity
from worker import PAGE, nodes_of, touch
os.sched_setaffinity(0, affinity.Host.live().topology.by_id[0].cpus)
shared = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
for offset in range(0, len(shared), PAGE): shared[offset] = 1
read, write = os.pipe()
child = os.fork()
if not child:  # it maps the same pages
    for offset in range(0, len(shared), PAGE): shared[offset]
    os.write(write, b"."); signal.pause()
os.read(read, 1)
mine = touch(8)
os.sched_setaffinity(0, range(os.cpu_count()))
report = affinity.bind(node=2)
print(nodes_of([shared]), nodes_of([mine]), report.observed.policy, report.degradations)
os.kill(child, signal.SIGKILL)
"""
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(WORKER).parent)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environ, timeout=240, check=True)
    pages = (8 << 20) // mmap.PAGESIZE
    assert done.stdout == f"{ {'0': pages} } { {'2': pages} } preferred:2 ()\n"


def test_legacy_leaves_threads_and_pages_behind() -> None:
    """What it did: the calling thread, and a preferred node for pages to come."""
    found = run("inline", "legacy", 2)
    assert found["strategy"] == "legacy"
    assert share(found["early"], 2) <= 0.3
    assert share(found["late"], 2) == 1
    assert bound_threads(found, 2) < 0.2


@pytest.mark.parametrize("strategy", ["numactl", "inherit"])
def test_a_spawned_worker_is_local_from_birth(strategy: str) -> None:
    """Every thread, every page; the parent keeps what it had."""
    found = run("spawn", strategy, 3)
    assert found["already"]
    assert bound_threads(found, 3) == 1
    assert share(found["early"], 3) == share(found["late"], 3) == 1
    assert found["share"] >= 0.99
    assert set(found["parent"]) == os.sched_getaffinity(0)


def test_affinity_run_becomes_the_command_bound() -> None:
    """Through numactl by the table, and by inheritance where that is named; children of the command too."""
    look = (
        "import os, subprocess, sys;"
        "pages = [line.split()[1] for line in open('/proc/self/numa_maps') if ' anon=' in line];"
        "print(sorted(os.sched_getaffinity(0)), *{*pages}, os.getpid(), flush=True);"
        "subprocess.run([sys.executable, '-I', '-S', '-c', 'import os; print(sorted(os.sched_getaffinity(0)))'])"
    )
    command = [sys.executable, "-m", "affinity", "run", "--node", "1", "--", sys.executable, "-c", look]
    for strategy in ("numactl", "inherit"):
        environ = {**os.environ, "AFFINITY_STRATEGY": strategy}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
        out = process.communicate(timeout=120)[0]
        there = sorted(node_cpus()[1])
        assert out == f"{there} prefer:1 {process.pid}\n{there}\n"


def test_four_workers_at_once_for_four_gpus(tmp_path: Path) -> None:
    """Four threads start four workers, by either strategy, spawned and forked: each is born on its GPU's node and
    finds it."""
    script = tmp_path / "server.py"
    script.write_text(
        """
import multiprocessing, threading, affinity
from affinity.kernel.linux import THIS_PROCESS
def work(queue, gpu):
    born = str(THIS_PROCESS.get_affinity()), str(THIS_PROCESS.get_mempolicy())
    report = affinity.bind()
    queue.put((gpu, *born, report.already_bound, [g.node for g in report.launch.gpus]))
if __name__ == "__main__":
    queue = multiprocessing.get_context("spawn").Queue()
    plans = [p for p in affinity.plan_each(gpu="all", launch_mode="spawn") if p.placement and p.placement.cpus]
    barrier = threading.Barrier(len(plans))
    def start(gpu, strategy, method):
        process = multiprocessing.get_context(method).Process(target=work, args=(queue, gpu))
        with affinity.spawning(gpu=gpu, settings=affinity.Settings(strategies=(strategy,))):
            barrier.wait(); process.start(); barrier.wait()
        process.join()
    ways = ("numactl", "spawn"), ("inherit", "spawn"), ("inherit", "fork")
    threads = [threading.Thread(target=start, args=(str(p.launch.gpus[0].pci), *ways[i % 3]))
               for i, p in enumerate(plans)]
    for t in threads: t.start()
    for t in threads: t.join()
    for _ in plans: print(*map(str, queue.get()), sep="|")
    print(str(THIS_PROCESS.get_affinity()), str(THIS_PROCESS.get_mempolicy()), sep="|")
"""
    )
    expected = {str(g.address): g.numa_node for g in Host.live().topology.pci_devices if g.numa_node is not None}
    assert sorted(expected.values()) == [0, 1, 3, 3]
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240, check=True)
    *workers, parent = (line.split("|") for line in done.stdout.splitlines())
    assert {w[0] for w in workers} == set(expected)
    for gpu, mask, policy, already, nodes in workers:
        node = expected[gpu]
        assert affinity.CpuSet.parse(mask) == affinity.CpuSet(node_cpus()[node])
        assert (policy, already, nodes) == (f"preferred:{node}", "True", f"[{node}]")
    assert parent == [str(affinity.CpuSet(os.sched_getaffinity(0))), "default"]


def test_the_plan_of_every_gpu() -> None:
    """Node by PCI numa_node; the GPU without one is unknown, and never on node 0."""
    command = [sys.executable, "-m", "affinity", "plan", "--gpu", "all", "--json"]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert [row["node"] for row in rows] == [None, 0, 1, 3, 3]
    for row in rows[1:]:
        assert affinity.CpuSet.parse(row["cpus"]) == affinity.CpuSet(node_cpus()[row["node"]])
        assert row["memory"] == {"mode": "preferred", "nodes": [row["node"]]}
    assert (rows[0]["strategy"], rows[0]["cpus"]) == ("noop", None)


def test_a_worker_for_another_gpu_of_an_engine_core_that_is_bound(tmp_path: Path) -> None:
    """Bound to node 0, it starts workers for node 3: with `spawning()`, and without; their mask and their memory.

    As in vllm issue 43270, where such workers stayed on the core's node.
    """
    script = tmp_path / "engine.py"
    script.write_text(
        """
import multiprocessing, affinity
from affinity.kernel.linux import THIS_PROCESS
def work(queue):
    report = affinity.bind(node=3)
    queue.put(f"{THIS_PROCESS.get_affinity()} {THIS_PROCESS.get_mempolicy()} {report.satisfied}")
if __name__ == "__main__":
    print(affinity.bind(node=0).observed.policy)
    context = multiprocessing.get_context("spawn"); queue = context.Queue()
    with affinity.spawning(node=3):
        one = context.Process(target=work, args=(queue,)); one.start()
    print(queue.get()); one.join()
    two = context.Process(target=work, args=(queue,)); two.start()
    print(queue.get()); two.join()
    print(THIS_PROCESS.get_affinity(), THIS_PROCESS.get_mempolicy())
"""
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240, check=True)
    there = affinity.CpuSet(node_cpus()[3])
    bound = affinity.CpuSet(node_cpus()[0])
    assert done.stdout.splitlines() == ["preferred:0", *[f"{there} preferred:3 True"] * 2, f"{bound} preferred:0"]


def test_an_engine_of_sglangs_shape_with_gpus_on_two_nodes() -> None:
    """Its plugin is loaded by its entry point: schedulers next to GPUs of nodes 1 and 3, the other processes anywhere.

    The GPUs are no vendor's that is known, so their ordinals are positions in PCI order.
    """
    shape = Path(__file__).parents[2] / "engines" / "sglang_shape"
    command = [sys.executable, str(shape / "start.py"), '{"base_gpu_id": 2}']
    environ = {**os.environ, "PYTHONPATH": str(shape)}  # -P is on here
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    everywhere = [[str(affinity.CpuSet(os.sched_getaffinity(0)))], "default"]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "TP0": [[str(affinity.CpuSet(node_cpus()[1]))], "prefer:1"],
        "TP1": [[str(affinity.CpuSet(node_cpus()[3]))], "prefer:3"],
        "detokenizer": everywhere,
        "server": everywhere,
    }
    assert "[TP1] affinity: already in force by strategy numactl" in done.stderr


def test_undo_is_verified_by_the_kernel(tmp_path: Path) -> None:
    """Masks of all threads and the policy, after `undo()` and after `restored()`."""
    script = tmp_path / "undo.py"
    script.write_text(
        """
import os, threading, affinity
from affinity.kernel.linux import THIS_PROCESS
stop = threading.Event()
for _ in range(5): threading.Thread(target=stop.wait, daemon=True).start()
def state():
    return {str(THIS_PROCESS.get_affinity(t)) for t in THIS_PROCESS.threads()}, str(THIS_PROCESS.get_mempolicy())
before = state()
report = affinity.bind(node=1); bound = state(); report.undo(); undone = state()
with affinity.restored(): affinity.bind(node=2)
print(undone == before == state(), bound == ({str(affinity.Host.live().topology.by_id[1].cpus)}, "preferred:1"))
"""
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True True\n"


def test_memory_of_several_nodes() -> None:
    """One worker with the GPUs of nodes 1 and 3: the union; preferred-many where several are preferred."""
    gpus = [str(g.address) for g in Host.live().topology.pci_devices if g.numa_node in (1, 3)]
    program = f"""
import affinity, os
for memory in ("preferred", "bind", "interleave"):
    os.environ["AFFINITY_MEMORY"] = memory
    r = affinity.bind(gpu={gpus!r})
    print(r.requested.cpus, r.observed.policy, r.satisfied)
    r.undo()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    cpus = affinity.CpuSet(node_cpus()[1] | node_cpus()[3])
    modes = ("preferred-many", "bind", "interleave")
    assert done.stdout == "".join(f"{cpus} {mode}:1,3 True\n" for mode in modes)
