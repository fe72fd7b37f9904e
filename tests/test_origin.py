"""What was allowed before the first bind, and when a note about it still holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity import CpuSet
from affinity.handoff import Note, allowed_before


class Process:
    """As much of a kernel as a note needs."""

    def __init__(self, mask: str, environ: dict[str, str] | None = None, xoptions: dict[str, str | bool] | None = None):
        self.mask, self.environ, self.xoptions = CpuSet.parse(mask), environ or {}, xoptions or {}

    def get_affinity(self, tid: int = 0) -> CpuSet:
        return self.mask

    def online(self) -> CpuSet:
        return CpuSet.parse("0-7")


@pytest.mark.parametrize(
    ("process", "allowed"),
    [
        (Process("0-3"), "0-3"),
        (Process("4-7", {"AFFINITY_BOUND": "4-7<0-7"}), "0-7"),
        (Process("4-7", {"AFFINITY_BOUND": "4-7<0-7;preferred:1"}), "0-7"),
        (Process("4-7", xoptions={"affinity": "4-7<0-7;;0000:1b:00.0"}), "0-7"),
        (Process("6-7", {"AFFINITY_BOUND": "6-9<0-9"}), "0-9"),  # 8 and 9 went offline: nobody's limit
        (Process("4-5", {"AFFINITY_BOUND": "4-7<0-7"}), "4-5"),
        (Process("4-7", {"AFFINITY_BOUND": "nonsense"}), "4-7"),
        (Process("4-7", {"AFFINITY_BOUND": "4-7<0-999999999999"}), "4-7"),
        (Process("4-7", xoptions={"affinity": True}), "4-7"),
    ],
)
def test_a_note_holds_while_the_mask_is_the_one_we_set(process: Process, allowed: str) -> None:
    """A mask that someone narrowed since is a limit; a stranger's value is no note."""
    assert str(allowed_before(process)) == allowed  # type: ignore[arg-type]


@given(
    st.sets(st.integers(0, 99)),
    st.sets(st.integers(0, 99)),
    st.sampled_from(["", "preferred:1", "preferred-many:0,2"]),
    st.sampled_from(["", "node:1", "0000:1b:00.0"]),
)
def test_a_note_round_trips(bound: set[int], original: set[int], memory: str, worker: str) -> None:
    """Through a command line."""
    note = Note(CpuSet(bound), CpuSet(original), memory, worker)
    assert Note.parse(str(note)) == note


@given(st.text(max_size=40))
def test_any_text_is_a_note_or_none(text: str) -> None:
    """A stranger's value must not stop a worker."""
    Note.parse(text)
