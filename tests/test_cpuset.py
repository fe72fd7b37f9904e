"""CpuSet and NodeSet: the kernel's formats, and the refusal to mix."""

from __future__ import annotations

import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity import CpuSet, Host, LaunchMode, NodeSet
from affinity.devices import NodeEvidence, NodeSource
from affinity.errors import ListFormatError
from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.launchers import Launch
from affinity.policies import Placement
from affinity.topology.cpuset import MAX_ID

ids = st.sets(st.integers(0, 300), max_size=40)


@given(ids)
def test_list_format_round_trips(members: set[int]) -> None:
    """What is printed is what is read."""
    made = CpuSet(members)
    assert CpuSet.parse(str(made)) == made
    assert set(made) == members
    assert len(made) == len(members)


@given(ids, ids)
def test_operations_are_those_of_sets(a: set[int], b: set[int]) -> None:
    """Union, intersection, difference, subset and disjointness agree with Python's own sets."""
    x, y = NodeSet(a), NodeSet(b)
    assert set(x | y) == a | b
    assert set(x & y) == a & b
    assert set(x - y) == a - b
    assert (x <= y) == (a <= b)
    assert x.isdisjoint(y) == a.isdisjoint(b)
    assert (x == y) == (a == b)
    assert bool(x) == bool(a)
    assert not a or x.first() == min(a)


@given(ids)
def test_mask_format_is_read_as_the_kernel_writes_it(members: set[int]) -> None:
    """32-bit hexadecimal words, highest first, separated by commas."""
    bits = sum(1 << i for i in members)
    words = [f"{bits >> shift & 0xFFFFFFFF:08x}" for shift in range(320, -1, -32)]
    assert set(CpuSet.parse_mask(",".join(words) + "\n")) == members


def test_the_kernel_reads_what_we_print() -> None:
    """The list format of this process's mask is the kernel's own line."""
    with open("/proc/self/status") as status:
        line = next(x for x in status if x.startswith("Cpus_allowed_list"))
    assert str(CpuSet(os.sched_getaffinity(0))) == line.split()[1]


@pytest.mark.parametrize("text", ["", "\n", "\0", " \n\0"])
def test_blank_is_empty(text: str) -> None:
    """A memory-only node's cpulist is a blank line."""
    assert CpuSet.parse(text) == CpuSet()


def test_end_marks_are_ignored() -> None:
    """Some sysfs files end in NUL."""
    assert CpuSet.parse("0-3,8\n\0") == CpuSet([0, 1, 2, 3, 8])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("0-", "'0-'"),
        ("3-1", "backwards"),
        ("a", "'a'"),
        ("0,,1", "''"),
        ("-1", "'-1'"),
        ("0-999999999999", "out of range"),
        (f"{MAX_ID}", "out of range"),
        ("9" * 4000, "no CPU list"),
        ("٣", "no CPU list"),
    ],
)
def test_bad_lists_are_refused_naming_the_part(text: str, part: str) -> None:
    """Also the hostile ones, without the memory they ask for."""
    with pytest.raises(ListFormatError, match=part) as caught:
        CpuSet.parse(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["xyz", "", "123456789", "ff,,ff", "0x1"])
def test_bad_masks_are_refused(text: str) -> None:
    """A word that is no 32-bit hexadecimal number."""
    with pytest.raises(ListFormatError, match="mask word"):
        CpuSet.parse_mask(text)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused_by_name(text: str) -> None:
    """No traceback from inside for any text."""
    try:
        assert CpuSet.parse(str(CpuSet.parse(text))) == CpuSet.parse(text)
    except ListFormatError:
        pass


def test_cpus_and_nodes_never_mix() -> None:
    """A CPU number is no node number: every operator refuses, and they are never equal."""
    for mix in (lambda a, b: a & b, lambda a, b: a | b, lambda a, b: a - b, lambda a, b: a <= b):
        with pytest.raises(TypeError, match="does not mix"):
            mix(CpuSet([1]), NodeSet([1]))
    assert CpuSet([1]) != NodeSet([1])


def test_sets_are_values() -> None:
    """Hashable, picklable, immutable."""
    made = CpuSet([1, 2])
    assert {made: 1}[CpuSet([2, 1])] == 1
    assert pickle.loads(pickle.dumps(made)) == made
    assert eval(repr(made)) == made
    with pytest.raises(AttributeError):
        made._bits = 0


@pytest.mark.parametrize("kind", [CpuSet, NodeSet])
def test_a_set_is_made_of_text_as_of_numbers(kind: type[CpuSet] | type[NodeSet]) -> None:
    """Text is never a sequence of characters."""
    assert kind("0-3,8") == kind([0, 1, 2, 3, 8]) == kind(kind("0-3,8")) == kind(range(4)) | kind("8")
    with pytest.raises(ListFormatError, match=f"'all' in 'all' is no {kind.kind} list"):
        kind("all")


def test_what_is_no_set_is_refused_by_name() -> None:
    """Bytes, whose items are numbers; elements that are none; and the other kind of set."""
    with pytest.raises(ListFormatError, match="CPU '1': expected a whole number"):
        CpuSet(["1"])  # type: ignore[list-item]
    for wrong in (b"0-3", CpuSet([1]), 3):
        with pytest.raises(TypeError, match=r"NodeSet\(.*expected node numbers, or their list as text"):
            NodeSet(wrong)  # type: ignore[arg-type]


def test_values_of_the_public_api_take_text() -> None:
    """What a policy, a launcher, a device provider or a test makes."""
    placement = Placement("0-3", MemoryPolicy(MemoryMode.BIND, "1"), "0,1")
    assert placement == Placement(CpuSet(range(4)), MemoryPolicy(MemoryMode.BIND, NodeSet([1])), NodeSet([0, 1]))
    assert Launch(LaunchMode.INLINE, nodes="2").gpu_nodes == NodeSet([2])
    assert NodeEvidence(NodeSource.NVML_CPU, cpus="0-3").cpus == CpuSet(range(4))
    host = Host.synthetic("pack:2 core:4", allowed_cpus="0-1,4", allowed_nodes="1")
    assert (host.allowed_cpus, host.allowed_nodes) == (CpuSet([0, 1, 4]), NodeSet([1]))
    with pytest.raises(ListFormatError, match="'first' in 'first' is no CPU list"):
        Placement("first", None)


def test_a_placement_keeps_the_set_that_it_is_given() -> None:
    """The masks of many threads are compared by identity."""
    cpus = CpuSet([1])
    assert Placement(cpus, None).cpus is cpus
