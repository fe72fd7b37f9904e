"""`affinity demo` starts real workers, and shows the state of each as read from the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import schemas
from commands import affinity

from affinity import CpuSet, Host

HOST = Host.live()
NODES = HOST.topology.nodes_of(HOST.allowed_cpus)


@pytest.fixture(scope="module")
def reported() -> dict[str, object]:
    """One run, as JSON."""
    done = affinity("demo", "--json")
    assert done.returncode == 0, done.stderr
    shape: dict[str, object] = schemas.load("demo", done.stdout)
    return shape


def test_each_worker_is_where_the_kernel_states(reported: dict[str, object]) -> None:
    """A spawned one for each place and one in process: mask of every thread, policy, pages."""
    workers = reported["workers"]
    assert isinstance(workers, list)
    assert [w["started_by"] for w in workers].count("a plain subprocess") == 1
    for worker in workers:
        seen = worker["observed"]
        assert worker["satisfied"], worker
        assert seen["cpus"] == worker["requested"]["cpus"]
        assert seen["memory"] == worker["requested"]["memory"]
        assert seen["threads"] >= 2, "the scheduler has a thread of its own"
        assert seen["threads_within"] == seen["threads"]
        assert seen["local_share"] > 0.9
        assert sum(seen["resident"].values()) > 32 << 20, "the scheduler touched its memory"


def test_a_spawned_worker_is_born_there_and_the_other_binds_itself(reported: dict[str, object]) -> None:
    """numactl before the start, libnuma in the process; each with its reason."""
    workers = reported["workers"]
    assert isinstance(workers, list)
    assert [(w["strategy"], w["already"]) for w in workers[:-1]] == [("numactl", True)] * (len(workers) - 1)
    assert (workers[-1]["strategy"], workers[-1]["already"]) == ("libnuma", False)
    assert all(w["reason"] for w in workers)


def test_without_gpus_stand_ins_are_printed_to_be_such() -> None:
    """One on each node that the operator names; the table is for people."""
    node = NODES.first()
    done = affinity("demo", AFFINITY_NODES=str(node), AFFINITY_DEVICES="pci", AFFINITY_MEMORY="none")
    assert done.returncode == 0, done.stderr
    for word in ("placeholder GPU", "read from the kernel", "numactl: in force from its start", "libnuma: in force"):
        assert word in done.stdout


def test_the_demo_obeys_the_operators_limits() -> None:
    """Under taskset each worker has the one CPU."""
    cpu = min(os.sched_getaffinity(0))
    done = affinity("demo", "--json", prefix=("taskset", "-c", str(cpu)), AFFINITY_STRATEGY="inherit")
    for worker in schemas.load("demo", done.stdout)["workers"]:
        assert CpuSet.parse(worker["observed"]["cpus"]) == CpuSet([cpu])
        assert worker["strategy"] == "inherit"


def test_another_machine_is_no_option() -> None:
    """Nothing can be started there."""
    done = affinity("demo", "--synthetic", "pack:2 core:2 gpu:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "o such option" in done.stderr


def test_where_binding_is_required_and_refused_the_status_is_3(tmp_path: Path) -> None:
    """The parent's strategy cannot act: nothing is started, and its reason is reported."""
    done = affinity("demo", AFFINITY_ENFORCE="required", AFFINITY_STRATEGY="numactl", PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (3, "")
    assert "apt-get install numactl" in done.stderr


def test_a_wrong_setting_is_reported_before_anything_starts() -> None:
    """Status 2."""
    done = affinity("demo", AFFINITY_NODES="4000")
    assert (done.returncode, done.stdout) == (2, "")
    assert "node 4000" in done.stderr
