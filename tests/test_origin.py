"""What was allowed before the first bind, and when a record of it still holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity import CpuSet, NodeSet
from affinity.handoff import Handoff, baseline_cpus


class Process:
    """As much of a process as a record needs."""

    pid, is_this_process = 7, False

    def __init__(self, mask: str, environ: dict[str, str] | None = None, handoff: str = "") -> None:
        self.mask, self.environ, self.handoff = CpuSet.parse(mask), environ or {}, handoff

    def identity(self) -> str:
        return "7-100-boot"

    def get_affinity(self, tid: int = 0) -> CpuSet:
        return self.mask

    def online(self) -> CpuSet:
        return CpuSet.parse("0-7")


def bound(text: str) -> dict[str, str]:
    return {"AFFINITY_BOUND": text}


@pytest.mark.parametrize(
    ("process", "allowed"),
    [
        (Process("0-3"), "0-3"),
        (Process("4-7", bound("cpus=4-7;allowed=0-7;by=7-100-boot")), "0-7"),
        (Process("4-7", bound("cpus=4-7;memory=preferred:1;allowed=0-7;by=7-100-boot")), "0-7"),
        (Process("4-7", handoff="gpus=0000:1b:00.0;cpus=4-7;allowed=0-7;by=3-99-boot"), "0-7"),
        (Process("6-7", bound("cpus=6-9;allowed=0-9;by=7-100-boot")), "0-9"),  # 8 and 9 went offline: not a limit
        (Process("4-5", bound("cpus=4-7;allowed=0-7;by=7-100-boot")), "4-5"),
        (Process("4-7", bound("cpus=4-7;allowed=0-7;by=3-99-boot")), "4-7"),  # another program, perhaps under taskset
        (Process("4-7", bound("cpus=4-7;allowed=0-7;by=7-100-yore")), "4-7"),
        (Process("4-7", bound("cpus=4-7;allowed=0-7")), "4-7"),
        (Process("4-7", bound("nonsense")), "4-7"),
        (Process("4-7", bound("cpus=4-7;allowed=0-999999999999;by=7-100-boot")), "4-7"),
        (Process("4-7", handoff="True"), "4-7"),
    ],
)
def test_a_record_holds_while_the_mask_is_the_one_that_was_set(process: Process, allowed: str) -> None:
    """A mask that was narrowed since is a limit; so is one that another process was bound to."""
    assert str(baseline_cpus(process)) == allowed  # type: ignore[arg-type]


@given(
    cpus=st.sets(st.integers(0, 99)).map(CpuSet),
    allowed=st.sets(st.integers(0, 99)).map(CpuSet),
    memory=st.sampled_from(["", "preferred:1", "preferred-many:0,2"]),
    gpus=st.lists(st.sampled_from(["0000:1b:00.0", "phys:3"]), max_size=2).map(tuple),
    nodes=st.one_of(st.none(), st.sets(st.integers(0, 9)).map(NodeSet)),
    strategy=st.sampled_from(["", "numactl"]),
    by=st.sampled_from(["", "7-100-boot"]),
    settings=st.dictionaries(st.sampled_from(["AFFINITY_SMT", "AFFINITY_ACME_A"]), st.text("a;=% '", max_size=5)),
)
def test_a_handoff_round_trips(**fields: object) -> None:
    """Through a command line, whatever a plugin's option holds."""
    handoff = Handoff(**fields)  # type: ignore[arg-type]
    assert Handoff.parse(str(handoff)) == handoff


@given(st.text(max_size=40))
def test_any_text_is_a_handoff_or_none(text: str) -> None:
    """An unrelated value must not stop a worker."""
    Handoff.parse(text)
