"""Runs the tests meant for the machine this is, and reports on them.

On the host, these tests are only listed, for the host's own tests to run them.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from ..boot import MACHINE_VARIABLE
from ..machines import MACHINES, Machine

# Ray has an environment of its own: its tests are there where it is. Without an origin it is our directory tests/ray.
_ray = importlib.util.find_spec("ray")
collect_ignore = ["test_ray_guest.py"] if _ray is None or _ray.origin is None else []

#: Where to write the tests and their machines to, when they are only listed.
LIST_VARIABLE = "VM_LIST"

#: The tests to run out of those meant for this machine, all unless it is there.
SELECTION = Path("/results/selection.json")

#: A line for each phase of each test.
REPORT = Path("/results/report.jsonl")


def machine_names(item: pytest.Item) -> list[str]:
    marker = item.get_closest_marker("machine")
    if marker is None:
        raise pytest.UsageError(f"{item.nodeid} has no machine marker")
    unknown = set(marker.args) - set(MACHINES)
    if unknown:
        raise pytest.UsageError(f"{item.nodeid}: no machine {', '.join(unknown)}")
    return list(marker.args or MACHINES)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    machines = {item.nodeid: machine_names(item) for item in items}
    if LIST_VARIABLE in os.environ:
        Path(os.environ[LIST_VARIABLE]).write_text(json.dumps(machines))
        return
    machine = os.environ.get(MACHINE_VARIABLE)
    if machine is None:
        raise pytest.UsageError("these tests run in an emulated machine only")
    selection = json.loads(SELECTION.read_text()) if SELECTION.exists() else machines
    chosen = [item for item in items if machine in machines[item.nodeid] and item.nodeid in selection]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    line = {
        "test": report.nodeid,
        "outcome": report.outcome,
        "expected": getattr(report, "wasxfail", None),
        "text": text,
        # What was captured comes again, and more, with each phase of a test.
        "output": [list(section) for section in report.sections],
        "seconds": report.duration,
    }
    with REPORT.open("a") as stream:
        stream.write(json.dumps(line) + "\n")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No flag of whatever runs the tests decides a test, nor does the machine's own name."""
    for name in list(os.environ):
        if name.startswith(("AFFINITY_", "SGLANG_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def machine() -> Machine:
    """The declaration of the machine this is."""
    return MACHINES[os.environ[MACHINE_VARIABLE]]


@pytest.fixture(autouse=True, scope="session")
def _nodes_of_gpus(machine: Machine) -> None:
    """Write the nodes of the GPUs to sysfs if the machine has a device tree, which has none."""
    for gpu in machine.visible_gpus if not machine.firmware else ():
        if gpu.node is not None:
            Path(f"/sys/bus/pci/devices/{gpu.address}/numa_node").write_text(str(gpu.node))
