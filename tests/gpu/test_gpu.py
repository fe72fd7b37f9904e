"""On a real NVIDIA GPU: the inventory, binding around a CUDA context, `affinity ps`, and the measurement.

Each expected value is of another source: `nvidia-smi`, sysfs, the kernel.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from smi import Card

PROGRAM = str(Path(__file__).parent / "program.py")


def affinity(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "affinity", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def printed(*arguments: str) -> Any:
    done = affinity(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ids(text: str) -> set[int]:
    """The numbers of a list in the kernel's format."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        low, _, high = part.partition("-")
        found |= set(range(int(low), int(high or low) + 1))
    return found


def cpus_of(node: int | None) -> set[int]:
    """The CPUs that a worker of a GPU on this node may have here: those of the node, all if it is unknown."""
    allowed = os.sched_getaffinity(0)
    return allowed if node is None else ids(Path(f"/sys/devices/system/node/node{node}/cpulist").read_text()) & allowed


def program(mode: str, card: Card, *prefix: str) -> dict[str, Any]:
    done = subprocess.run(
        [*prefix, sys.executable, PROGRAM, mode, card.pci_bus_id],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["copied"]
    return found


def test_the_inventory_is_that_of_nvidia_smi(cards: list[Card]) -> None:
    """In its order, which is that of PCI addresses."""
    shown = [gpu for gpu in printed("show")["gpus"] if gpu["vendor"] == "nvidia"]
    assert [(gpu["uuid"], gpu["pci_bus_id"], gpu["model"]) for gpu in shown] == [
        (card.uuid, card.pci_bus_id, card.name) for card in cards
    ]


def test_each_way_to_name_a_gpu_is_the_same_gpu(cards: list[Card]) -> None:
    """Its ordinal, address, UUID, the begin of that, and the UUID of a MIG device."""
    for card in cards:
        for reference in (card.index, card.pci_bus_id, card.uuid, card.uuid[:16], *card.mig):
            (plan,) = printed("plan", "--gpu", reference)
            assert plan["gpu"]["pci_bus_id"] == card.pci_bus_id, reference


def test_the_node_is_that_of_sysfs_and_has_a_reason(cards: list[Card]) -> None:
    """If the firmware gave none: the only node with CPUs, or none, for the reason that is shown."""
    nodes = [int(path.name[4:]) for path in Path("/sys/devices/system/node").glob("node[0-9]*")]
    with_cpus = [node for node in nodes if cpus_of(node)]
    for gpu in printed("show")["gpus"]:
        file = Path(f"/sys/bus/pci/devices/{gpu['pci_bus_id']}/numa_node")
        node = int(file.read_text()) if file.exists() else -1
        if node in with_cpus:
            assert gpu["node"] == node
        elif len(with_cpus) == 1:
            assert gpu["node"] == with_cpus[0]
        assert gpu["node_reason"]


def test_a_cuda_program_runs_under_the_command(cards: list[Card]) -> None:
    """On the CPUs and memory of its GPU."""
    for card in cards:
        (plan,) = printed("plan", "--gpu", card.pci_bus_id, "--launch-mode", "command")
        found = program("run", card, sys.executable, "-m", "affinity", "run", "--gpu", card.pci_bus_id, "--")
        assert {cpu for mask in found["threads"].values() for cpu in mask} <= cpus_of(plan["node"])
        assert_pinned_on(plan["node"], found)


@pytest.mark.parametrize("mode", ["before", "after"])
def test_a_bind_before_and_after_there_is_a_context(cards: list[Card], mode: str) -> None:
    """Every thread of the driver is bound, those that it had started before too, and new pinned memory is local."""
    for card in cards:
        found = program(mode, card)
        print(found["report"], f"{len(found['threads'])} threads", sep="\n")
        assert found["satisfied"], found["report"]
        for thread, mask in found["threads"].items():
            assert set(mask) <= cpus_of(found["node"]), thread
        assert_pinned_on(found["node"], found)


def assert_pinned_on(node: int | None, found: dict[str, Any]) -> None:
    """The kernel shows the pages on the node; those that the driver maps without a struct page are not shown."""
    shown = {on for on in found["pinned"] if on >= 0}
    assert node is None or shown <= {node}, found["pinned"]


def test_a_process_with_a_context_is_listed(cards: list[Card]) -> None:
    """With its GPU."""
    command = [sys.executable, PROGRAM, "wait", cards[0].pci_bus_id]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = json.loads(process.stdout.readline())["pid"]
        rows = [row for row in printed("ps", "--all-users")["processes"] if row["pid"] == pid]
        process.communicate("")
    assert [row["gpu"]["pci_bus_id"] for row in rows if row["gpu"]] == [cards[0].pci_bus_id]


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("numpy", "cuda")),
    reason="numpy or cuda-bindings is not installed: pip install 'numa-affinity[bench]'",
)
def test_the_gpu_is_measured(cards: list[Card]) -> None:
    """Copies are faster than a PCIe slot of the first generation, and a launch takes less than a millisecond."""
    for card in cards:
        job = {"cpus": sorted(os.sched_getaffinity(0)), "nodes": [0], "size": 256 << 20, "gpu": card.pci_bus_id}
        command = [sys.executable, "-m", "affinity.benchmark.worker", json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        print(done.stdout)
        found = json.loads(done.stdout)
        assert 1e9 < found["to_gpu"] < 1e12
        assert 1e9 < found["from_gpu"] < 1e12
        assert 1e-7 < found["small_copy"] < 1e-3
        assert 1e-7 < found["launch"] < 1e-3


def test_the_benchmark_ends_with_a_verdict_or_the_reason_why_there_is_none(cards: list[Card]) -> None:
    done = affinity("bench", "--rounds", "2", "--gpu", cards[0].index)
    print(done.stdout, done.stderr)
    if done.returncode:
        assert re.match("affinity: (nothing to compare|numpy, which measures, is missing)", done.stderr)
    else:
        assert re.search(r"as fast .* as elsewhere: |nothing was measured", done.stdout)
