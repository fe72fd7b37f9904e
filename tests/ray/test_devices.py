"""GPUs that Ray hands out, reported of by a driver library of our own: which one has an actor got?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import driver
import pytest
from workers import RAY

from affinity.testing import machines

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

MACHINE = "dgx-a100"  # nodes 3 3 1 1 7 7 5 5, so that a wrong GPU is a wrong node


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What the actors of three nodes found: every GPU visible; three of them in another order; two by UUID."""
    pytest.importorskip("pynvml", reason="nvidia-ml-py is optional")
    library = driver.build(tmp_path_factory.mktemp("driver"))
    gpus = machines.get(MACHINE).gpus
    orders = ["-", "7,2,5", f"{gpus[6].uuid},{gpus[1].uuid}"]
    environment = driver.environment(library, driver.describe(machines.get(MACHINE)), tmp_path_factory.mktemp("log"))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "fake_driver_program.py"), MACHINE, *orders],
        env={**environment, **RAY, "AFFINITY_DEVICES": "nvml"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=110,
        check=True,
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("[["))  # beside warnings of a raylet
    answer: list[list[dict[str, Any]]] = json.loads(line)
    return answer


def placed(seen: dict[str, Any], position: int) -> bool:
    """Whether the actor and the audit find the machine's GPU at this position, and its threads are on its node."""
    gpu = machines.get(MACHINE).gpus[position]
    cpus = machines.get(MACHINE).topology().cpus_of({gpu.node})
    found = seen["gpu"], seen["audited"], seen["node"], seen["cpus"]
    return found == (str(gpu.pci), str(gpu.pci), gpu.node, str(cpus))


def test_a_node_that_shows_all_its_gpus_numbers_them_itself(found: list[list[dict[str, Any]]]) -> None:
    """Eight actors, eight GPUs: Ray's id is the GPU's position, and each sees only its own as CUDA's first."""
    assert {seen["ids"][0] for seen in found[0]} == {str(i) for i in range(8)}
    for seen in found[0]:
        assert seen["cuda"] == seen["ids"][0]
        assert placed(seen, int(seen["ids"][0]))


def test_a_raylet_started_with_reordered_gpus_hands_those_out(found: list[list[dict[str, Any]]]) -> None:
    """CUDA_VISIBLE_DEVICES=7,2,5: the ids are its entries, not positions among them."""
    assert {seen["ids"][0] for seen in found[1]} == {"7", "2", "5"}
    assert all(placed(seen, int(seen["ids"][0])) for seen in found[1])


def test_a_raylet_started_with_uuids_hands_out_uuids(found: list[list[dict[str, Any]]]) -> None:
    """The id is then no number at all."""
    uuids = [gpu.uuid for gpu in machines.get(MACHINE).gpus]
    assert {seen["ids"][0] for seen in found[2]} == {uuids[6], uuids[1]}
    assert all(placed(seen, uuids.index(seen["ids"][0])) for seen in found[2])


def test_no_thread_is_left_unbound_on_any_of_them(found: list[list[dict[str, Any]]]) -> None:
    """Twenty threads each, on the simulated kernel of the machine."""
    assert all(seen["unbound"] == 0 and seen["satisfied"] for node in found for seen in node)
    assert sum(map(len, found)) == 13
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
