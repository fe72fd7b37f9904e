"""The audit of actors that something else wrote: which are next to their GPU, and bound from outside if they are not.

Four GPUs of a driver library of our own: CPU 0 is next to GPUs 0 and 2, CPU 1 to GPUs 1 and 3.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import driver
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from unmodified import Plain, call, proc_masks
from workers import RAY, environment

import affinity
from affinity.devices import Evidence, GpuUse
from affinity.integrations.ray import ActorAudit, audit
from affinity.integrations.ray.actor_state import decide
from affinity.topology import PciAddress

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="CPUs 0 and 1 are not both allowed here"),
]

Actors = Callable[..., Any]
PAGE = (Path(__file__).resolve().parent.parent.parent / "docs/howto/ray.md").read_text()


@pytest.fixture(scope="module", autouse=True)
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ray, with the runtime directory of its user, where undo records are."""
    folder = tmp_path_factory.mktemp("run")
    variables = {**driver.four_gpus(tmp_path_factory.mktemp("driver")), "XDG_RUNTIME_DIR": str(folder)}
    with environment(**RAY, **variables):
        ray.init(num_cpus=2, num_gpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
        try:
            yield folder
        finally:
            ray.shutdown()


def pid_of(actor: Any) -> int:
    """Its PID, once it runs."""
    pid: int = ray.get(actor.seen.remote(), timeout=60)["now"]["pid"]
    return pid


def gpu_of(actor: Any) -> int:
    """Its GPU, as Ray shows it to the actor."""
    (gpu,) = ray.get(actor.seen.remote(), timeout=60)["now"]["gpus"]
    return int(gpu)


def command(documented: str, *more: str) -> subprocess.CompletedProcess[str]:
    """A command of docs/howto/ray.md."""
    assert re.search(rf"^affinity {documented}( |$)", PAGE, re.MULTILINE)
    text = [sys.executable, "-c", "from affinity.cli import main; main()", *documented.split(), *more]
    return subprocess.run(text, capture_output=True, text=True, timeout=60, check=False)


def audited(**options: Any) -> dict[int, ActorAudit]:
    return {found.pid: found for found in audit(timeout=60, **options)}


def test_an_actor_that_was_not_bound_is_listed_and_bound_where_it_runs(
    actors: Actors, runtime: Path, load_json: Callable[..., Any]
) -> None:
    """It never imports this package. Its masks are those that /proc shows; a second audit shows the bind."""
    actor, without_gpu = actors(Plain), actors(Plain, num_gpus=0)
    pid, cpu = pid_of(actor), gpu_of(actor) % 2
    free = {tuple(sorted(os.sched_getaffinity(0)))}
    assert set(proc_masks(pid).values()) == free
    done = command("ray audit", "--json")
    (row,) = [row for row in load_json("ray-audit", done.stdout) if row["pid"] == pid]
    assert (done.returncode, row["error"]) == (1, "")
    assert (row["name"], row["report"], row["holds"], row["attached"]) == ("Plain", None, None, None)
    assert (row["process"]["locality"], row["process"]["bound"]) == ("not bound", None)
    assert (row["process"]["evidence"], row["process"]["evidence_reason"]) == ("assigned", "assigned by Ray")
    assert row["process"]["placement"]["cpus"] == str(cpu)
    assert [gpu["name"] for gpu in row["gpus"]] == [f"0000:0{gpu_of(actor) + 1}:00.0"]
    assert (row["threads"], row["outside"], row["local_share"]) == (len(proc_masks(pid)),) * 2 + (1.0,)
    assert set(proc_masks(pid).values()) == free  # an audit alone changes nothing

    done = command("ray audit --attach")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(proc_masks(pid).values()) == {(cpu,)}
    assert re.search(
        rf"^Plain, \S+, {pid}: attached: (\d+) of \1 threads are on CPUs {cpu}$", done.stdout, re.MULTILINE
    )
    assert len(os.listdir(runtime / "affinity")) == 1
    row_now = audited()[pid]
    assert row_now.process is not None
    assert (row_now.process["bound"]["strategy"], row_now.process["locality"]) == ("external", "local")
    assert (row_now.in_force, row_now.threads_outside, row_now.attached) == (None, 0, None)
    assert pid_of(without_gpu) not in audited()

    assert command("attach --undo", str(pid)).returncode == 0
    assert set(proc_masks(pid).values()) == free


def test_an_actor_that_set_its_own_mask_is_left_alone(actors: Actors) -> None:
    """And reported, with what to do on its node."""
    actor = actors(Plain)
    pid, other = pid_of(actor), 1 - gpu_of(actor) % 2
    ray.get(actor.__ray_call__.remote(call, os.sched_setaffinity, 0, {other}), timeout=60)
    before = proc_masks(pid)
    row = audited(attach=True)[pid]
    assert row.attached == {"left_alone": f"its CPU mask {other} was set by something else, its cpuset has CPUs 0-1"}
    assert proc_masks(pid) == before
    done = command("ray audit --attach")
    assert done.returncode == 1
    assert f"{pid}: left alone: its CPU mask {other} was set" in done.stdout
    assert re.search(rf"{pid}: partly: .* may run outside .*; on its node: affinity attach {pid} --gpu", done.stdout)


def test_an_actor_that_bound_itself_has_its_report_and_is_not_bound_again(actors: Actors) -> None:
    """Its row is the one from before, with the strategy and when that was."""
    actor = actors(Plain)
    pid = pid_of(actor)
    assert audited()[pid].report is None
    ray.get(actor.__ray_call__.remote(call, affinity.bind), timeout=60)
    bound_by = time.time()
    row = audited(attach=True)[pid]
    assert row.report is not None
    assert row.process is not None
    assert (row.report["strategy"], row.in_force, row.threads_outside, row.attached) == ("libnuma", True, 0, None)
    assert row.gpus == tuple(row.report["gpus"])
    bound = row.process["bound"]
    assert (bound["strategy"], bound["cpus"]) == ("libnuma", str(gpu_of(actor) % 2))
    assert -1 < bound_by - bound["since"] < 30


def test_an_actor_that_ray_restarted_is_not_bound_any_more(actors: Actors) -> None:
    """It has the id of the one that bound itself, whose record is deleted."""
    from ray.experimental.internal_kv import _internal_kv_list

    actor = actors(Plain, max_restarts=1, max_task_retries=1)
    before = pid_of(actor)
    ray.get(actor.__ray_call__.remote(call, affinity.bind), timeout=60)
    assert audited()[before].in_force
    os.kill(before, signal.SIGKILL)
    pid = pid_of(actor)
    found = audited()
    assert before not in found
    assert (found[pid].report, found[pid].in_force, found[pid].name) == (None, None, "Plain")
    assert found[pid].process is not None
    assert (found[pid].process["locality"], found[pid].process["bound"]) == ("not bound", None)
    assert actor._actor_id.hex().encode() not in _internal_kv_list(b"", namespace=b"numa-affinity")


def test_a_ray_that_does_not_list_its_actors_costs_those_that_were_not_bound(
    actors: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a later Ray, whose internals are others. It is a row of its own, and hides none that bound itself."""
    actor, unbound = actors(Plain), actors(Plain)
    ray.get(actor.__ray_call__.remote(call, affinity.bind), timeout=60)
    pids = pid_of(actor), pid_of(unbound)
    monkeypatch.setitem(sys.modules, "ray.core.generated.gcs_pb2", None)
    first, *rows = audit(timeout=60)
    assert first.error.startswith("Ray does not list the actors with GPUs (ModuleNotFoundError: ")
    assert (first.actor, first.is_well) == ("", False)
    assert [(row.pid, row.in_force) for row in rows if row.pid in pids] == [(pids[0], True)]


def test_ray_states_the_gpus_of_an_actor_in_each_way_to_ask_for_them(actors: Actors) -> None:
    """Parts of one, several, and those of a placement group."""
    group = placement_group([{"GPU": 1}])
    ray.get(group.ready(), timeout=60)
    made = [
        actors(Plain, num_gpus=0.5),
        actors(Plain, num_gpus=2),
        actors(Plain, scheduling_strategy=PlacementGroupSchedulingStrategy(group)),
    ]
    expected = {pid_of(actor): ray.get(actor.seen.remote())["now"]["gpus"] for actor in made}
    found = audited()
    for pid, ids in expected.items():
        assert [gpu["uuid"][:5] for gpu in found[pid].gpus] == [f"GPU-{number}" for number in ids]
    assert sorted(map(len, expected.values())) == [1, 1, 2]
    for actor in made:
        ray.kill(actor, no_restart=True)
    remove_placement_group(group)


def test_a_gpu_that_an_actor_was_given_by_a_variable_of_its_own_is_not_guessed(actors: Actors) -> None:
    """Ray's positions count among its node's GPUs: the actor has the variable that its node does not have."""
    actor = actors(Plain, runtime_env={"env_vars": {"CUDA_VISIBLE_DEVICES": "3"}})
    pid = pid_of(actor)
    before = proc_masks(pid)
    row = audited(attach=True)[pid]
    assert row.process is not None
    assert (row.process["locality"], row.gpus, row.attached) == ("unknown", (), None)
    assert row.process["reason"].startswith("CUDA_VISIBLE_DEVICES is another one than its node's")
    assert proc_masks(pid) == before
    assert row.is_well  # not known is no alarm


def test_a_driver_that_contradicts_ray_decides_nothing() -> None:
    """What Ray assigned counts, unless the driver shows the process on others alone; then that is what is known."""
    gpus = [PciAddress(0, bus, 0, 0) for bus in (1, 2)]
    uses, may_use, assigned = (
        [GpuUse(7, gpu, evidence, "") for gpu in gpus]
        for evidence in (Evidence.USES, Evidence.MAY_USE, Evidence.ASSIGNED)
    )
    for shown in ([], may_use[1:], uses):
        assert decide(shown, assigned[:1], "") == (assigned[:1], "")
    assert decide(may_use, [], "") == (may_use, "")
    assert decide(may_use, [], "unknown") == (may_use, "unknown")
    assert decide(uses[:1], [], "unknown") == (uses[:1], "")
    contradicted, reason = decide(uses[1:], assigned[:1], "")
    assert contradicted == uses[1:]
    assert reason == "Ray assigned GPU 0000:01:00.0 to it, but it uses 0000:02:00.0"
