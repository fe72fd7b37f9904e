"""Tests of the policy: the contract, and what this policy adds."""

from __future__ import annotations

from affinity_example.policy import AffinityExamplePolicy

import affinity
from affinity import CpuSet, Host, NodeSet, Settings
from affinity.policies import Placement
from affinity.testing import PolicyContract

FOUR_NODES = "pack:2 numa:2 core:8 gpu:1"


class TestContract(PolicyContract):
    """Every case that a built-in policy passes too."""

    def make(self) -> AffinityExamplePolicy:
        return AffinityExamplePolicy()


def placed(allowed: str, **options: str) -> Placement:
    """Return the placement of GPU 0's worker, by the policy's installed name, in a container with these CPUs."""
    host = Host.synthetic(FOUR_NODES, allowed_cpus=allowed)
    plan = affinity.plan(gpu=0, host=host, settings=Settings(policy="affinity-example", options=options))
    assert plan.placement is not None
    return plan.placement


def test_enough_cpus_on_the_node_are_taken_alone() -> None:
    """As the default policy does."""
    assert placed("0-31").cpus == CpuSet.parse("0-7")


def test_too_few_cpus_bring_in_the_next_nearest_node() -> None:
    """That of the same package first, and no more nodes than needed; memory follows."""
    placement = placed("0-1,8-15,16-31")
    assert placement.cpus == CpuSet.parse("0-1,8-15")
    assert placement.memory is not None
    assert placement.memory.nodes == NodeSet([0, 1])


def test_everything_that_is_allowed_may_still_be_too_little() -> None:
    """Then it is everything that is allowed."""
    assert placed("0,31").cpus == CpuSet.parse("0,31")


def test_the_operator_sets_how_many_cpus_are_enough() -> None:
    """By the variable of the plugin."""
    assert placed("0-31", AFFINITY_AFFINITY_EXAMPLE_ENOUGH="9").cpus == CpuSet.parse("0-15")
