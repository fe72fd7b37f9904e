"""Ray's actors and tasks on a kernel with several nodes, against that kernel's own word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import actors
import pytest
import ray
import ray_head
import unmodified
from test_binding import bound_threads, share
from worker import node_cpus

from affinity.integrations.ray import audit, survey

pytestmark = pytest.mark.machine("large")

GPUS = 4


@pytest.fixture(scope="module")
def lived() -> Iterator[dict[str, Any]]:
    """An actor of each kind on a GPU each, all created at once; what each found, by kind, and the actor itself."""
    with ray_head.running(GPUS):
        sync = ray.remote(num_gpus=1, num_cpus=0)(actors.Sync)
        made = {
            "sync": sync.remote("libnuma"),
            "threaded": sync.options(max_concurrency=3).remote("libnuma"),
            "legacy": sync.remote("legacy"),
            "async": ray.remote(num_gpus=1, num_cpus=0)(actors.Async).remote(),
        }
        found = {kind: ray.get(actor.lived.remote()) for kind, actor in made.items()}
        yield {kind: {**found[kind], "actor": actor} for kind, actor in made.items()}


def node_of(found: dict[str, Any]) -> int:
    """Of the GPU Ray gave: this machine has GPU 0 on node 0, and so on."""
    (gpu,) = found["gpus"]
    return int(gpu)


def test_each_actor_has_a_gpu_of_its_own(lived: dict[str, Any]) -> None:
    assert sorted(node_of(found) for found in lived.values()) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["sync", "threaded"])
def test_an_actors_threads_and_pages_are_on_its_gpus_node(lived: dict[str, Any], kind: str) -> None:
    """Those that Ray had before `__init__` and those that come after."""
    found = lived[kind]
    node = node_of(found)
    assert (found["strategy"], found["satisfied"], found["degradations"]) == ("libnuma", True, [])
    assert found["threads"] > 10
    assert bound_threads(found, node) == 1
    assert found["policy"] == f"prefer:{node}"
    assert share(found["early"], node) >= 0.99
    assert share(found["late"], node) == 1
    assert share({str(n): size for n, size in found["own"].items()}, node) >= 0.99


def test_the_calling_thread_alone_leaves_threads_and_pages_behind(lived: dict[str, Any]) -> None:
    """What engines do in process today."""
    found = lived["legacy"]
    node = node_of(found)
    assert found["strategy"] == "legacy"
    assert bound_threads(found, node) < 0.2
    assert share(found["early"], node) <= 0.3
    assert share(found["late"], node) == 1


def test_an_async_actors_init_and_coroutines_run_bound(lived: dict[str, Any]) -> None:
    """Its `__init__` is not on the main thread, and neither is its event loop."""
    found = lived["async"]
    node = node_of(found)
    assert (found["satisfied"], found["degradations"]) == (True, [])
    assert share({str(n): size for n, size in found["own"].items()}, node) >= 0.99
    for looked in (found["in init"], ray.get(found["actor"].looked.remote())):
        assert looked["mask"] == sorted(node_cpus()[node])
        assert looked["policy"] == f"prefer:{node}"
        assert share(looked["pages"], node) == 1


@pytest.mark.parametrize("kind", ["sync", "threaded"])
def test_methods_run_bound_in_each_of_an_actors_threads(lived: dict[str, Any], kind: str) -> None:
    node = node_of(lived[kind])
    calls = [lived[kind]["actor"].looked.remote() for _ in range(3)]
    for looked in ray.get(calls):
        assert looked["mask"] == sorted(node_cpus()[node])
        assert looked["policy"] == f"prefer:{node}"
        assert share(looked["pages"], node) == 1


def test_survey_and_audit_of_the_cluster(lived: dict[str, Any]) -> None:
    """A plan for each GPU, each on its node; every bound actor as the kernel shows it now."""
    (surveyed,) = survey(timeout=240)
    assert surveyed.error == ""
    assert [plan["node"] for plan in surveyed.plans] == [0, 1, 2, 3]
    by_name = {
        (row.name, row.report["strategy"], row.report["requested"]["nodes"][0]): row for row in audit(timeout=240)
    }
    for kind, name in (("sync", "Sync"), ("threaded", "Sync"), ("async", "Async")):
        row = by_name[name, "libnuma", node_of(lived[kind])]
        assert (row.error, row.threads_outside, row.in_force) == ("", 0, True)
        assert row.local_share is not None
        assert row.local_share >= 0.99
    left = by_name["Sync", "legacy", node_of(lived["legacy"])]
    assert left.threads_outside > 10
    assert left.local_share is not None
    assert left.local_share < 0.9


def test_a_task_is_bound_and_gives_its_worker_back(lived: dict[str, Any]) -> None:
    """It takes a GPU from an actor, for which it comes late."""
    gone = lived["sync"]
    ray.kill(gone["actor"])
    task = ray.remote(num_gpus=1, num_cpus=0, max_calls=0)(actors.task)
    bound, after = ray.get(task.remote(True)), ray.get(task.remote(False))
    node = node_of(gone)
    assert node_of(bound) == node
    assert (bound["mask"], bound["policy"]) == (sorted(node_cpus()[node]), f"prefer:{node}")
    assert share(bound["pages"], node) == 1
    assert (after["mask"], after["policy"]) == ([0, 1, 2, 3], "default")
    assert after["pid"] == bound["pid"]


def test_unmodified_actors_on_gpus_of_two_nodes_are_bound_by_autostart(lived: dict[str, Any]) -> None:
    """The last test: one has the GPU that the task has left, the other takes one from an actor."""
    ray.kill(lived["threaded"]["actor"])
    environ = {"env_vars": {"AFFINITY_AUTOSTART": "1"}}
    made = ray.remote(num_gpus=1, num_cpus=0, runtime_env=environ)(unmodified.Unmodified)
    found = ray.get([actor.lived.remote() for actor in [made.remote() for _ in range(2)]])
    assert {node_of(one) for one in found} == {node_of(lived["sync"]), node_of(lived["threaded"])}
    for one in found:
        node = node_of(one)
        assert one["import"] == {"mask": sorted(node_cpus()[node]), "policy": f"prefer:{node}"}
        assert bound_threads(one, node) == 1
        assert len(one["masks"]) > 10
        assert share(one["pages"], node) == 1
        assert share({str(n): size for n, size in one["own"].items()}, node) >= 0.99
