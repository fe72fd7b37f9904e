"""Workers whose GPU may be any of several: a UUID that no driver is here to resolve."""

from __future__ import annotations

import pytest

import affinity
from affinity import CpuSet, Settings
from affinity.testing import FakeHost

ONE_NODE = "pack:1 core:8 gpu:2"
TWO_NODES = "pack:2 core:4 gpu:2"
UUIDS = ("GPU-aaaa", "GPU-bbbb")


def worker(uuid: str, machine: str = ONE_NODE, **environ: str) -> FakeHost:
    """One of two, each of which sees its own GPU."""
    return FakeHost(machine, environ={"CUDA_VISIBLE_DEVICES": uuid, **environ})


@pytest.mark.parametrize("policy", ["exclusive", "interleaved", "core-complex", "single-core"])
def test_its_node_is_not_divided(policy: str) -> None:
    """Both would get the share of the first GPU. The reason states it, and a note what helps."""
    for uuid in UUIDS:
        plan = affinity.plan(host=worker(uuid).host, settings=Settings(policy=policy), launch_mode="inline")
        assert plan.placement is not None
        assert plan.placement.cpus == CpuSet("0-7")
        assert plan.placement.reason == (
            "node 0 undivided, because this worker's GPU may be any one of 0000:01:00.0, 0000:02:00.0"
        )
        assert plan.launch.notes == (
            f"only the driver can resolve {uuid}; install numa-affinity[nvml], or name its PCI address",
        )


def test_a_gpu_that_is_named_has_its_share() -> None:
    """By its address, whatever the variable shows."""
    plan = affinity.plan(gpu="0000:02:00.0", host=worker("GPU-aaaa").host, settings=Settings(policy="exclusive"))
    assert plan.placement is not None
    assert plan.placement.cpus == CpuSet("4-7")


@pytest.mark.parametrize(("policy", "cpus"), [("even", ()), ("explicit", (CpuSet("0-3"), CpuSet("4-7")))])
def test_a_policy_that_counts_gpus_refuses_it(policy: str, cpus: tuple[CpuSet, ...]) -> None:
    """Also on one node: it would give each worker the part of the first GPU."""
    settings = Settings(policy=policy, cpus=cpus)
    plan = affinity.plan(host=worker("GPU-bbbb").host, settings=settings, launch_mode="inline")
    assert plan.problem.startswith("this worker's GPU is one of 0000:01:00.0, 0000:02:00.0, so it has no place among ")
    assert "numa-affinity[nvml]" in plan.problem


def test_a_local_rank_is_enough_for_equal_parts() -> None:
    """The launcher distinguishes the workers then."""
    for rank, cpus in enumerate(("0-3", "4-7")):
        rank_variables = {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
        fake = worker(UUIDS[rank], **rank_variables)
        plan = affinity.plan(host=fake.host, settings=Settings(policy="even"))
        assert plan.placement is not None
        assert plan.placement.cpus == CpuSet(cpus)


def test_a_bind_records_its_node() -> None:
    """Its own workers are placed there; the operator has all four GPUs on node 1."""
    fake, nodes = worker("GPU-aaaa", TWO_NODES), (1, 1, 1, 1)
    report = affinity.bind(host=fake.host, settings=Settings(policy="exclusive", nodes=nodes))
    assert (report.satisfied, report.already_bound) == (True, False)
    assert fake.kernel.get_affinity() == CpuSet("4-7")
    assert affinity.bind(host=fake.host, settings=Settings(policy="node", nodes=nodes)).already_bound


def test_attach_takes_all_gpus_that_it_may_be() -> None:
    """Its node is certain though its GPU is not; on several nodes nothing is."""
    fake = FakeHost(TWO_NODES)
    other = fake.start_process()
    other.environ["CUDA_VISIBLE_DEVICES"] = "GPU-aaaa"
    with pytest.raises(affinity.UsageError, match="is not certain"):
        affinity.attach(other.pid, host=fake.host)
    settings = Settings(nodes=(1, 1, 1, 1))
    report = affinity.attach(other.pid, host=fake.host, settings=settings)
    assert report.satisfied
    assert set(other.masks.values()) == {CpuSet("4-7")}
