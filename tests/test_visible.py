"""What each vendor's ordinals mean."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import affinity
from affinity.devices import Gpu
from affinity.devices.ordinals import (
    DriverOrdinal,
    Entry,
    Numbering,
    PhysicalOrdinal,
    RocrOrdinal,
    VisibleOrdinal,
    cuda,
    hip,
    level_zero,
)
from affinity.testing import FakeHost
from affinity.topology import PciAddress


def gpus(*models: int, vendor: str = "nvidia", known: bool = True) -> tuple[Gpu, ...]:
    """One a bus, each on a node of its own, with a UUID that begins with its own digit."""
    return tuple(
        Gpu(
            PciAddress(0, i + 1, 0, 0),
            vendor,
            device_id=model,
            uuid=f"GPU-{i:x}{i:07x}-1234" if known else None,
            node=i,
        )
        for i, model in enumerate(models)
    )


EIGHT = gpus(*[0x2330] * 8)


def shown(variable: str | None, everyone: tuple[Gpu, ...] = EIGHT, **more: str) -> list[int | None]:
    """The nodes (which are the positions) of what CUDA shows."""
    environ = dict(more) if variable is None else {"CUDA_VISIBLE_DEVICES": variable, **more}
    return [seat.unambiguous_gpu().node for seat in cuda(everyone, environ)[1].entries]


@settings(deadline=None)
@given(
    st.permutations(range(8)).flatmap(
        lambda order: st.tuples(
            st.integers(0, 8).map(lambda n: order[:n]), st.lists(st.booleans(), min_size=8, max_size=8)
        )
    )
)
def test_visible_ordinal_i_is_the_gpu_cuda_would_call_i(case: tuple[list[int], list[bool]]) -> None:
    """Any subset in any order, each entry as an ordinal or as a UUID."""
    chosen, by_uuid = case
    entries = [str(EIGHT[i].uuid) if named else str(i) for i, named in zip(chosen, by_uuid, strict=False)]
    order = cuda(EIGHT, {"CUDA_VISIBLE_DEVICES": ",".join(entries)})[1]
    for position, physical in enumerate(chosen):
        seat = order.at(VisibleOrdinal(position))
        assert seat is not None
        assert seat.unambiguous_gpu() is EIGHT[physical]
    assert order.at(VisibleOrdinal(len(chosen))) is None


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("", []),
        (" ", []),
        ("3,1", [3, 1]),
        (" 3 , 1 ", [3, 1]),
        ("2,-1,0", [2]),
        ("-1", []),
        ("0,8,1", [0]),
        ("0,,1", [0]),
        ("NoDevFiles", []),
        ("1,1", []),
        ("3,1,3", []),
        ("3,GPU-3", []),
        ("GPU-3", [3]),
        ("GPU-3,1,GPU-2", [3, 1, 2]),
        ("GPU-3,GPU-ffff,1", [3]),
        ("GPU-,1", []),
        ("30000003-1234", []),
    ],
)
def test_cuda_visible_devices_means_what_cuda_states(variable: str | None, expected: list[int]) -> None:
    """CUDA Programming Guide: unset is all, empty is none, the first invalid entry ends the list."""
    assert shown(variable) == expected


def test_ordinals_among_different_models_are_no_ones_unless_in_pci_order() -> None:
    """FASTEST_FIRST: which GPU ordinal 0 is cannot be reported, so it has no node and no identity."""
    mixed = gpus(0x2330, 0x1EB8)
    assert shown(None, mixed) == [None, None]
    assert shown("1", mixed) == [None]
    assert shown("GPU-1,GPU-0", mixed) == [1, 0]
    assert shown("1", mixed, CUDA_DEVICE_ORDER="PCI_BUS_ID") == [1]
    seat = cuda(mixed, {})[1].entries[0]
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in seat.ambiguity
    assert seat.unambiguous_gpu().pci is None


def test_different_models_on_one_node_leave_nothing_to_doubt() -> None:
    """Whichever GPU it is, its node is the same."""
    together = tuple(Gpu(PciAddress(0, i, 0, 0), "nvidia", device_id=i, node=1) for i in (1, 2))
    assert shown(None, together) == [1, 1]


def test_all_visible_gpus_are_known_although_their_order_is_not() -> None:
    """A worker that uses them all does not care that is first; one that is given one of two does."""
    mixed = gpus(0x2330, 0x1EB8)
    assert [g.node for g in cuda(mixed, {})[1].gpus] == [0, 1]
    assert [g.node for g in cuda(mixed, {"CUDA_VISIBLE_DEVICES": "1"})[1].gpus] == [None]


def test_a_uuid_that_only_the_driver_finds_is_no_gpu_unless_there_is_one() -> None:
    """Without NVML there are no UUIDs: an entry may be any GPU; the list does not end there."""
    assert shown("GPU-5,GPU-6", gpus(1, 1, known=False)) == [None, None]
    assert shown("GPU-5", gpus(1, known=False)) == [0]
    assert shown("1,GPU-5", gpus(1, 1, known=False)) == [1, None]


def test_an_ordinal_of_another_numbering_is_refused() -> None:
    """Numberings do not mix: mypy sees it, and so does the order."""
    order = Numbering(VisibleOrdinal, (Entry(EIGHT[0]),))
    for other in (PhysicalOrdinal, DriverOrdinal, RocrOrdinal):
        with pytest.raises(TypeError, match=other.__name__):
            order.at(other(0))  # type: ignore[arg-type]
        assert other(0) != VisibleOrdinal(0)


# ---------------------------------------------------------------- AMD

MI250X = gpus(*[0x7408] * 4, vendor="amd")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"ROCR_VISIBLE_DEVICES": "2,0"}, [2, 0]),
        ({"ROCR_VISIBLE_DEVICES": ""}, []),
        ({"ROCR_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "0"}, []),
        ({"ROCR_VISIBLE_DEVICES": "2,0,2,1"}, [2, 0]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-3,9,1"}, [3]),
        ({"ROCR_VISIBLE_DEVICES": "gpu-3,1"}, [3, 1]),
        ({"HIP_VISIBLE_DEVICES": "3,1"}, [3, 1]),
        ({"HIP_VISIBLE_DEVICES": ""}, [0, 1, 2, 3]),
        ({"HIP_VISIBLE_DEVICES": "1,1,0"}, [1, 0]),
        ({"HIP_VISIBLE_DEVICES": "1,-1,0"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "2"}, [2]),
        ({"CUDA_VISIBLE_DEVICES": "2", "HIP_VISIBLE_DEVICES": "1"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "2", "HIP_VISIBLE_DEVICES": ""}, [2]),
        ({"ROCR_VISIBLE_DEVICES": "3,2,1", "HIP_VISIBLE_DEVICES": "2,0"}, [1, 3]),
        ({"ROCR_VISIBLE_DEVICES": "3,2", "CUDA_VISIBLE_DEVICES": "1"}, [2]),
    ],
)
def test_hip_counts_among_what_rocr_leaves(environ: dict[str, str], expected: list[int]) -> None:
    """ROCm, "GPU isolation techniques", and what ROCR-Runtime and clr do."""
    assert [seat.unambiguous_gpu().node for seat in hip(MI250X, environ)[1].entries] == expected


# ---------------------------------------------------------------- Intel

ARC = gpus(*[0x56C0] * 4, vendor="intel")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"ZE_AFFINITY_MASK": ""}, [0, 1, 2, 3]),
        ({"ZE_AFFINITY_MASK": "3,1"}, [1, 3]),
        ({"ZE_AFFINITY_MASK": "1.0"}, [1]),
        ({"ZE_AFFINITY_MASK": "0.2, 1.3, 1.0, 0.3", "ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE"}, [0, 1]),
        ({"ZE_AFFINITY_MASK": "7,2"}, [2]),
    ],
)
def test_the_level_zero_mask_chooses_and_does_not_reorder(environ: dict[str, str], expected: list[int]) -> None:
    """Level Zero Core Programming Guide, "Affinity Mask"."""
    assert [seat.unambiguous_gpu().node for seat in level_zero(ARC, environ)[1].entries] == expected


def test_tiles_make_level_zero_ordinals_doubtful() -> None:
    """With the default hierarchy a Max 1550 card is two devices."""
    cards = gpus(0x0BD5, 0x0BD5, vendor="intel")
    assert [seat.unambiguous_gpu().node for seat in level_zero(cards, {})[1].entries] == [None, None]
    assert [
        s.unambiguous_gpu().node for s in level_zero(cards, {"ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE"})[1].entries
    ] == [0, 1]


def test_different_intel_models_are_ordered_only_by_request() -> None:
    """ZE_ENABLE_PCI_ID_DEVICE_ORDER=1."""
    cards = gpus(0x56A0, 0x56C1, vendor="intel")
    assert [seat.unambiguous_gpu().node for seat in level_zero(cards, {})[1].entries] == [None, None]
    ordered = level_zero(cards, {"ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1"})[1]
    assert [seat.unambiguous_gpu().node for seat in ordered.entries] == [0, 1]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", [0, 1, 2, 3]),
        ("level_zero:*", [0, 1, 2, 3]),
        ("LEVEL_ZERO:GPU", [0, 1, 2, 3]),
        ("*:gpu", [0, 1, 2, 3]),
        ("*:*", [0, 1, 2, 3]),
        ("level_zero:2", [2]),
        ("level_zero:1,3", [1, 3]),
        ("level_zero:1;level_zero:3", [1, 3]),
        ("level_zero:1,1", [1]),
        ("level_zero:1,9", [1]),
        ("level_zero:9", []),
        ("level_zero:cpu", []),
        ("*:cpu,fpga", []),
        ("cuda:*", []),
        ("opencl:cpu", []),
        ("!level_zero:0", [1, 2, 3]),
        ("!level_zero:0,2;!opencl:*", [1, 3]),
        ("!*:cpu", [0, 1, 2, 3]),
        ("!*:gpu", []),
        ("!level_zero:*;!opencl:*", []),
        ("*:gpu;!level_zero:*;!opencl:gpu", []),
        ("cuda:*;!opencl:cpu", []),
        ("level_zero:*;!level_zero:3", [0, 1, 2]),
        ("!level_zero:3;level_zero:gpu", [0, 1, 2]),
        ("*:gpu;!cuda:*", [0, 1, 2, 3]),
        ("level_zero:1,2;opencl:0", [1, 2]),
        ("level_zero:2.0", [2]),
        ("level_zero:2.0,2.1", [2, 2]),
        ("level_zero:2.*", [2]),
        ("level_zero:2.1.*", [2]),
        ("level_zero:1;!level_zero:1.0", [1]),
        (" level_zero:0, 1 ; ", [0, 1]),
    ],
)
def test_the_oneapi_selector_chooses_among_level_zeros_devices(selector: str, expected: list[int]) -> None:
    """DPC++, "Environment Variables", ONEAPI_DEVICE_SELECTOR; devices keep their order."""
    entries = level_zero(ARC, {"ONEAPI_DEVICE_SELECTOR": selector})[1].entries
    assert [entry.unambiguous_gpu().node for entry in entries] == expected


@pytest.mark.parametrize(
    ("selector", "count", "reason"),
    [
        ("level_zero:3,1", 2, "ascending order"),
        ("level_zero:2,*", 4, "ascending order"),
        ("level_zero:2;level_zero:0", 2, "ascending order"),
        ("level_zero:0.0,1.0", 2, "parts of several GPUs"),
        ("level_zero:*.*", 4, "parts of several GPUs"),
        ("level_zero:*,*.*", 8, "parts of several GPUs"),
        ("opencl:gpu", 4, "OpenCL's order"),
        ("opencl:0", 4, "OpenCL's order"),
        ("!level_zero:*", 4, "OpenCL's order"),
        ("*:gpu;!level_zero:*;!opencl:cpu", 4, "OpenCL's order"),
        ("level_zero", 4, "malformed"),
        ("level_zero:", 4, "malformed"),
        ("level_zero:gpu:0", 4, "malformed"),
        ("level_zero:zero", 4, "malformed"),
        ("level_zero:1.2.3.4", 4, "malformed"),
        ("level_none:0", 4, "malformed"),
        ("gpu", 4, "malformed"),
        ("9" * 5000, 4, "malformed"),
    ],
)
def test_what_the_oneapi_selector_leaves_open_is_no_gpu_for_certain(selector: str, count: int, reason: str) -> None:
    """Each ordinal may be any of those that are shown; the ambiguity states why."""
    entries = level_zero(ARC, {"ONEAPI_DEVICE_SELECTOR": selector})[1].entries
    assert len(entries) == count
    assert [entry.unambiguous_gpu().node for entry in entries] == [None] * count
    assert all(reason in entry.ambiguity for entry in entries)


def test_an_open_selector_is_certain_where_one_gpu_or_one_node_is_left() -> None:
    """Whatever it means, it means that one."""
    assert [
        e.unambiguous_gpu().node for e in level_zero(ARC[1:2], {"ONEAPI_DEVICE_SELECTOR": "opencl:gpu"})[1].entries
    ] == [1]
    together = tuple(attrs.evolve(gpu, node=5) for gpu in ARC)
    entries = level_zero(together, {"ONEAPI_DEVICE_SELECTOR": "level_zero:*.*"})[1].entries
    assert {entry.unambiguous_gpu().node for entry in entries} == {5}


def test_the_oneapi_selector_counts_what_the_affinity_mask_leaves() -> None:
    """Level Zero itself applies its mask; SYCL sees the rest."""
    environ = {"ZE_AFFINITY_MASK": "1,3", "ONEAPI_DEVICE_SELECTOR": "level_zero:1"}
    driver, visible = level_zero(ARC, environ)
    assert [entry.unambiguous_gpu().node for entry in visible.entries] == [3]
    assert len(driver.entries) == 4


def test_a_worker_is_placed_by_the_oneapi_selector() -> None:
    """Through the inventory: its one visible GPU is on the second node."""
    fake = FakeHost("pack:2 numa:1 core:4 gpu:1(vendor=intel)", environ={"ONEAPI_DEVICE_SELECTOR": "level_zero:1"})
    planned = affinity.plan(host=fake.host)
    assert planned.placement is not None
    assert str(planned.placement.cpus) == "4-7"
