"""Tests of the strategy: the contract, and what this strategy adds."""

from __future__ import annotations

import pytest
from affinity_example.strategy import POOL, AffinityExampleStrategy

import affinity
from affinity import Settings
from affinity.testing import FakeHost, StrategyContract

#: The strategy by its installed name.
NAMED = Settings(strategies=("affinity-example",))


class TestContract(StrategyContract):
    """Every case that a built-in strategy passes too."""

    def make(self) -> AffinityExampleStrategy:
        return AffinityExampleStrategy()


def test_it_is_selected_by_its_name() -> None:
    """Through its entry point, as an operator does, on a simulated machine."""
    report = affinity.bind(gpu=4, host=FakeHost("dgx-h100").host, settings=NAMED)
    assert report.strategy == "affinity-example"
    assert report.satisfied


@pytest.mark.parametrize(("set_before", "expected"), [({}, "4"), ({POOL: "2"}, "2")])
def test_pools_get_a_thread_for_each_core(set_before: dict[str, str], expected: str) -> None:
    """Not for each hardware thread; and the operator's number stays."""
    fake = FakeHost("pack:2 core:4 pu:2 gpu:1", environ=set_before)
    affinity.bind(gpu=1, host=fake.host, settings=NAMED)
    assert fake.kernel.environ[POOL] == expected
