"""The four modes that PyTorch has too, on the 13 machines whose answers PyTorch itself computed.

docs/reference/policies.md lists every answer in which this project differs; its table is what these tests read,
so that nothing else is tolerated and no line can outlive its reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

import affinity
from affinity import CpuSet, Host, Settings
from affinity.host import NoKernel
from affinity.topology.synthetic import StaticSource

HERE = Path(__file__).parent
MACHINES: list[dict[str, Any]] = json.loads((HERE / "data/torch_numa_oracle.json").read_text())["machines"]
MODES = ("node", "socket", "exclusive", "core-complex")

#: The machines that the file describes in words: the line, and the GPUs whose `numa_node` is -1.
IN_WORDS: dict[str, tuple[str, set[int]]] = {
    "1s1n1g numa_node=-1": ("pack:1 core:1 pu:2 gpu:1", {0}),
    "2s1n1g gpu1 numa_node=-1 (extra: not in upstream test)": ("pack:2 core:1 pu:2 gpu:1", {1}),
    "2s1n2g 1L3 3c allowed=node1 only {6..11} (extra)": ("pack:2 core:3 pu:2 gpu:2", set()),
}


def machine(described: Mapping[str, Any]) -> Host:
    """The host that an entry of the file describes."""
    line, unknown = IN_WORDS.get(described["name"], ("", set()))
    if not line:
        p = described["params"]
        line = (
            f"pack:{p['sockets']} numa:{p['nodes_per_socket']} l3:{p['l3_per_node']} core:{p['cores_per_l3']} pu:2 "
            f"gpu:{p['gpus_per_node']}"
        )
    topology = Host.synthetic(line).topology
    devices = tuple(
        attrs.evolve(device, numa_node=None, local_cpus=None) if i in unknown else device
        for i, device in enumerate(topology.pci_devices)
    )
    source = StaticSource(topology.distances, topology.memory, topology.cpus, devices)
    allowed = CpuSet(described["allowed"]) if "allowed" in described else topology.online
    assert len(topology.online) == described["cpus"]
    nodes = affinity.NodeSet(topology.by_id)
    return Host(attrs.evolve(topology, source=source), NoKernel(), allowed, nodes)


def answers(host: Host, mode: str, count: int) -> list[str]:
    """For each GPU its CPU list, `unknown` where its node is not known, `error` where no CPU is left for it."""
    found = []
    for gpu in range(count):
        planned = affinity.plan(gpu=f"phys:{gpu}", host=host, settings=Settings(policy=mode, devices=("pci",)))
        if planned.placement is None:
            assert planned.problem
            found.append("error")
        else:
            found.append(str(planned.placement.cpus) if planned.placement.cpus is not None else "unknown")
    return found


def documented() -> dict[tuple[str, str, int], tuple[str, str]]:
    """The documentation's table: (machine, mode, GPU) -> (PyTorch's answer, ours)."""
    text = (HERE.parent / "docs/reference/policies.md").read_text()
    table: dict[tuple[str, str, int], tuple[str, str]] = {}
    for line in text.splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[1] in MODES:
            name, mode, numbers, theirs, ours, _why = cells
            for gpu in CpuSet.parse(numbers):
                assert (name, mode, gpu) not in table, f"{name}, {mode}, GPU {gpu} stands twice"
                table[name, mode, gpu] = (theirs, ours)
    return table


def theirs(text: str) -> str:
    return "error" if text.startswith("ERR") else text or "empty"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("described", MACHINES, ids=lambda m: m["name"])
def test_agrees_with_pytorch_except_where_the_documentation_states_so(described: dict[str, Any], mode: str) -> None:
    """Each GPU's CPUs are PyTorch's; each difference is a line of the documentation, with both answers."""
    expected = [theirs(text) for text in described["expected"][mode]]
    found = answers(machine(described), mode, len(expected))
    differences = {
        (described["name"], mode, gpu): (before, now)
        for gpu, (before, now) in enumerate(zip(expected, found, strict=True))
        if before != now
    }
    assert differences == {k: v for k, v in documented().items() if k[:2] == (described["name"], mode)}


def test_the_documentation_names_only_machines_that_there_are() -> None:
    """A line for a machine that is not in the file would never be checked."""
    assert {name for name, _, _ in documented()} <= {m["name"] for m in MACHINES}
    assert len(MACHINES) == 13
