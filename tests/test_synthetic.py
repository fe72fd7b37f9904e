"""A machine from one line: its shape, and errors that point at the token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity import CpuSet, NodeSet
from affinity.errors import SyntheticError
from affinity.topology.synthetic import load


def test_the_documented_example() -> None:
    """Two packages of two nodes, each two L3 domains of four cores with two threads, a GPU a node."""
    t = load("pack:2 numa:2 l3:2 core:4 pu:2 gpu:1")
    assert [str(n.cpus) for n in t.nodes] == ["0-15", "16-31", "32-47", "48-63"]
    assert [d.numa_node for d in t.pci_devices] == [0, 1, 2, 3]
    assert t.cpus[21].core == 20
    assert t.cpus[21].l3 == 16
    assert t.cpus[31].l3 == 24
    assert t.cpus[47].package == 1
    assert t.distances[0] == {0: 10, 1: 12, 2: 21, 3: 21}


def test_attributes() -> None:
    """Memory of the nodes, vendor of the GPUs."""
    t = load("numa:2(memory=0) core:2 gpu:1(vendor=amd)")
    assert t.memory_nodes == NodeSet()
    assert {d.vendor for d in t.pci_devices} == {0x1002}
    assert load("numa:1(memory=2MiB)").memory == {0: 2 << 20}


def test_more_gpus_than_a_bus_has_numbers() -> None:
    """Addresses stay unique past 255."""
    t = load("core:1 gpu:600")
    assert len({d.address for d in t.pci_devices}) == 600


@given(st.tuples(*[st.integers(1, 4)] * 5))
def test_every_cpu_has_one_place(counts: tuple[int, int, int, int, int]) -> None:
    """Nodes partition the CPUs; cores and L3 domains nest within nodes."""
    t = load("pack:{} numa:{} l3:{} core:{} pu:{}".format(*counts))
    assert sum(len(n.cpus) for n in t.nodes) == len(t.online) == len(t.cpus)
    for node in t.nodes:
        assert {t.cpus[c].l3 for c in node.cpus} <= set(node.cpus)
        assert len({t.cpus[c].core for c in node.cpus}) == counts[2] * counts[3]
    assert t.nodes_of(CpuSet([0])) == NodeSet([0])


@pytest.mark.parametrize(
    ("text", "why", "token"),
    [
        ("pack:2 node:2", "'node' is not known", "node:2"),
        ("core:4 numa:2", "too late", "numa:2"),
        ("core:4 core:2", "twice", "core:2"),
        ("pack:x", "no level", "pack:x"),
        ("pack:0", "no members", "pack:0"),
        ("core:2(memory=1GiB)", "'memory' is no attribute of 'core'", "core:2(memory=1GiB)"),
        ("numa:2(memory=lots)", "no size", "numa:2(memory=lots)"),
        ("gpu:1(vendor=acme)", "vendor 'acme'", "gpu:1(vendor=acme)"),
    ],
)
def test_errors_point_at_the_token(text: str, why: str, token: str) -> None:
    """The line is shown with carets under what is wrong."""
    with pytest.raises(SyntheticError, match=why) as caught:
        load(text)
    _, line, carets = str(caught.value).split("\n")
    assert line[carets.index("^") : carets.rindex("^") + 1] == token


@pytest.mark.parametrize("text", ["", "   ", "core:999999", "pack:65536 core:65536", "numa:2000"])
def test_empty_or_endless_machines_are_refused(text: str) -> None:
    """Without the memory they would take."""
    with pytest.raises(SyntheticError):
        load(text)


@given(st.text(alphabet="packnumalcorepugpu:0123456789()= xyz", max_size=40))
def test_any_line_parses_or_is_refused_by_name(text: str) -> None:
    """No traceback from inside for any line."""
    try:
        load(text)
    except SyntheticError:
        pass
