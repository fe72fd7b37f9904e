"""Actors of a real Ray on one machine: bound when their `__init__` runs, whatever their kind."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import ray
from workers import EVEN, ODD, cpu_of, gpus, masks

import affinity
from affinity.integrations.ray import bound
from affinity.kernel.linux import THIS_PROCESS

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("node"), pytest.mark.timeout(60)]

Actors = Callable[..., Any]


@bound
class Plain:
    """Remembers what its `__init__` saw."""

    def __init__(self, *given: object) -> None:
        self.given = given
        self.born = masks()
        self.on_main = threading.current_thread() is threading.main_thread()

    def seen(self) -> dict[str, Any]:
        made = affinity.current_report()
        assert made is not None
        return {
            "gpus": gpus(),
            "born": self.born,
            "now": masks(),
            "on_main": self.on_main,
            "mode": made.launch.mode.value,
            "strategy": made.strategy,
            "satisfied": made.satisfied,
            "notes": made.launch.notes,
            "reason": made.reason,
            "threads": made.outcome.bound,
            "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "given": self.given,
            "pid": os.getpid(),
            "memory": str(THIS_PROCESS.get_mempolicy()),
        }


class Async(Plain):
    async def seen(self) -> dict[str, Any]:
        return Plain.seen(self)


def bound_to(seen: dict[str, Any], cpus: set[int]) -> bool:
    """Whether every thread had, and has, exactly these CPUs."""
    return {tuple(m) for m in (*seen["born"].values(), *seen["now"].values())} == {tuple(sorted(cpus))}


def test_every_thread_is_bound_when_init_runs(actors: Actors) -> None:
    """A Ray worker has about twenty threads by then; its report names them all, and what it was given arrives."""
    seen = ray.get(actors(Plain, "model", 8).seen.remote())
    assert bound_to(seen, {cpu_of(*seen["gpus"])})
    assert seen["threads"] >= 10
    assert (seen["mode"], seen["strategy"], seen["satisfied"]) == ("ray", "libnuma", True)
    assert seen["given"] == ("model", 8)


def test_each_of_several_actors_is_beside_its_own_gpu(actors: Actors) -> None:
    """Ray numbers GPUs 0, 1, …; two neighbours have different CPUs here. No argument, no rank: Ray's ids decide."""
    found = ray.get([actor.seen.remote() for actor in [actors(Plain) for _ in range(2)]])
    assert len({tuple(seen["gpus"]) for seen in found}) == 2
    assert all(bound_to(seen, {cpu_of(*seen["gpus"])}) for seen in found)


def test_an_async_actor_is_bound_though_its_init_is_on_another_thread(actors: Actors) -> None:
    """Ray builds it on its event loop's thread; the main thread and all others are bound as well."""
    seen = ray.get(actors(Async).seen.remote())
    assert not seen["on_main"]
    assert bound_to(seen, {cpu_of(*seen["gpus"])})
    assert seen["memory"] == "preferred:0"


def test_method_threads_of_a_threaded_actor_and_of_its_groups_are_bound(actors: Actors) -> None:
    """Ray starts them after `__init__`, from a bound thread: they inherit CPUs and memory policy."""

    @bound
    class Threaded:
        def __init__(self) -> None:
            self.all_here = threading.Barrier(4)

        def compute(self) -> tuple[int, list[int], str]:
            self.all_here.wait(timeout=30)
            return threading.get_native_id(), sorted(os.sched_getaffinity(0)), str(THIS_PROCESS.get_mempolicy())

        @ray.method(concurrency_group="io")
        def load(self) -> tuple[int, list[int], str]:
            return self.compute()

        def gpu(self) -> list[str]:
            return gpus()

    actor = actors(Threaded, max_concurrency=2, concurrency_groups={"io": 2})
    calls = [actor.compute.remote(), actor.compute.remote(), actor.load.remote(), actor.load.remote()]
    found = ray.get(calls, timeout=40)
    assert len({thread for thread, _, _ in found}) == 4
    cpu = cpu_of(*ray.get(actor.gpu.remote()))
    assert {(tuple(mask), memory) for _, mask, memory in found} == {((cpu,), "preferred:0")}


def test_the_concurrency_groups_of_an_async_actor_run_on_its_cpus(actors: Actors) -> None:
    """Their threads are there before `__init__`, so the CPUs reach them and the policy, their own, does not."""

    @bound
    class Grouped:
        async def compute(self) -> tuple[int, list[int]]:
            return threading.get_native_id(), sorted(os.sched_getaffinity(0))

        @ray.method(concurrency_group="io")
        async def load(self) -> tuple[int, list[int]]:
            return threading.get_native_id(), sorted(os.sched_getaffinity(0))

        async def gpu(self) -> list[str]:
            return gpus()

    actor = actors(Grouped, concurrency_groups={"io": 2})
    found = ray.get([actor.compute.remote(), actor.load.remote()], timeout=40)
    assert len({thread for thread, _ in found}) == 2
    assert [mask for _, mask in found] == [[cpu_of(*ray.get(actor.gpu.remote()))]] * 2


def test_several_gpus_of_one_actor_place_it_beside_all(actors: Actors) -> None:
    """The union of their CPUs. That a report shows where their nodes differ: tests/test_gpus.py."""
    seen = ray.get(actors(Plain, num_gpus=2).seen.remote())
    assert len(seen["gpus"]) == 2
    assert bound_to(seen, {cpu_of(gpu) for gpu in seen["gpus"]})


def test_an_actor_without_a_gpu_is_left_alone_and_reported_why(actors: Actors) -> None:
    """It belongs nowhere; binding it beside all GPUs would be a guess."""
    seen = ray.get(actors(Plain, num_gpus=0).seen.remote())
    assert bound_to(seen, os.sched_getaffinity(0))
    assert seen["strategy"] == "noop"
    assert any("launcher ray assigned no GPU to this worker" in note for note in seen["notes"])


def test_actors_that_share_a_gpu_share_its_cpus(actors: Actors) -> None:
    """Half a GPU each."""
    found = ray.get([actor.seen.remote() for actor in [actors(Plain, num_gpus=0.5) for _ in range(2)]])
    assert found[0]["gpus"] == found[1]["gpus"]
    assert found[0]["pid"] != found[1]["pid"]
    assert all(bound_to(seen, {cpu_of(*seen["gpus"])}) for seen in found)


def test_ray_is_asked_where_it_leaves_cuda_visible_devices_alone(actors: Actors) -> None:
    """RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES: every worker sees all GPUs, and has one of them."""
    noset = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
    found = ray.get([actor.seen.remote() for actor in [actors(Plain, runtime_env=noset) for _ in range(2)]])
    assert [seen["cuda"] for seen in found] == [None, None]
    assert len({tuple(seen["gpus"]) for seen in found}) == 2
    assert all(bound_to(seen, {cpu_of(*seen["gpus"])}) for seen in found)


@bound
class Engine:
    """Starts workers of its own."""

    def planned(self) -> tuple[list[str], str]:
        """Where a worker that it spawns without saying more would go."""
        with affinity.spawning() as plan:
            return gpus(), str(plan.placement and plan.placement.cpus)

    def forked(self, late: bool) -> int:
        """Exit status of a fork that binds itself, and of SIGALRM where that hangs. late: it was the first to import
        the package, and has a thread already."""
        child = os.fork()
        if not child:
            signal.alarm(20)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            if late:
                for name in [name for name in sys.modules if name.startswith("affinity")]:
                    del sys.modules[name]
                threading.Thread(target=threading.Event().wait, daemon=True).start()
            made = importlib.import_module("affinity").bind(node=0)
            os._exit(0 if made.launch.mode.value == "inline" else 3)
        return os.waitpid(child, 0)[1]

    def report(self) -> affinity.BindReport | None:
        return affinity.current_report()


def test_a_worker_that_an_actor_spawns_goes_to_the_actors_gpu(actors: Actors) -> None:
    """By Ray's word, where CUDA_VISIBLE_DEVICES states nothing."""
    noset = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
    made = [actors(Engine, runtime_env=noset) for _ in range(2)]
    for mine, cpus in ray.get([actor.planned.remote() for actor in made]):
        assert cpus == str(cpu_of(*mine))


@pytest.mark.parametrize("late", [False, True])
def test_a_fork_of_an_actor_binds_itself_and_asks_ray_nothing(actors: Actors, late: bool) -> None:
    """Ray's connections do not work in a fork: a call would hang for ever."""
    assert ray.get(actors(Engine).forked.remote(late), timeout=40) == 0


def test_a_report_can_leave_its_actor(actors: Actors) -> None:
    """It shows, and cannot undo."""
    made = ray.get(actors(Engine).report.remote(), timeout=40)
    assert made.satisfied
    assert made.requested.cpus in (affinity.CpuSet([EVEN]), affinity.CpuSet([ODD]))
    with pytest.raises(affinity.UsageError, match="made in another process"):
        made.undo()


def test_affinity_ps_shows_its_class(actors: Actors, load_json: Callable[..., Any]) -> None:
    """From the title that Ray gives to its process."""
    pid = ray.get(actors(Plain).seen.remote())["pid"]
    command = [sys.executable, "-m", "affinity", "ps", "--json", "--pid", str(pid)]
    (row,) = load_json("ps", subprocess.run(command, capture_output=True, check=True).stdout)["processes"]
    assert (row["pid"], row["worker"]) == (pid, "Plain")


def test_a_placement_group_decides_where_its_actors_are(actors: Actors) -> None:
    """STRICT_PACK: the ids of the group's resources, which carry the group's name, are read as well."""
    group = ray.util.placement_group([{"GPU": 1}] * 2, strategy="STRICT_PACK")
    ray.get(group.ready(), timeout=30)
    packed = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
    made = [actors(Plain, scheduling_strategy=packed(group, placement_group_bundle_index=i)) for i in range(2)]
    found = ray.get([actor.seen.remote() for actor in made])
    ray.util.remove_placement_group(group)
    assert len({tuple(seen["gpus"]) for seen in found}) == 2
    assert all(bound_to(seen, {cpu_of(*seen["gpus"])}) for seen in found)


def test_an_actor_that_ray_restarts_binds_again(actors: Actors) -> None:
    """Its `__init__` runs again, in a new process."""
    actor = actors(Plain, max_restarts=1, max_task_retries=2)
    first = ray.get(actor.seen.remote())
    ray.kill(actor, no_restart=False)
    deadline = time.monotonic() + 40
    again = first
    while again["pid"] == first["pid"] and time.monotonic() < deadline:  # the old process may still answer
        again = ray.get(actor.seen.remote(), timeout=40)
    assert again["pid"] != first["pid"]
    assert bound_to(again, {cpu_of(*again["gpus"])})


def test_a_bind_that_is_required_and_impossible_fails_at_the_caller_and_leaves_the_node_usable(actors: Actors) -> None:
    """With the framework's own words; the next actor starts as if nothing had been."""
    impossible = {"AFFINITY_ENFORCE": "required", "AFFINITY_CPUS": "|".join(["8191"] * 8)}
    actor = actors(Plain, runtime_env={"env_vars": impossible})
    with pytest.raises(ray.exceptions.ActorDiedError, match="AFFINITY_CPUS gives CPUs 8191 to this worker"):
        ray.get(actor.seen.remote(), timeout=40)
    seen = ray.get(actors(Plain).seen.remote(), timeout=40)
    assert bound_to(seen, {cpu_of(*seen["gpus"])})


@pytest.mark.parametrize("required", [False, True])
def test_a_gpu_that_only_ray_finds_is_an_error_where_binding_is_required(actors: Actors, required: bool) -> None:
    """`ray.init(num_gpus=8)` on a machine where two can be listed."""
    two = {"AFFINITY_NODES": "0,0", "AFFINITY_POLICY": "node", "AFFINITY_ENFORCE": "best-effort"}
    if required:
        two["AFFINITY_ENFORCE"] = "required"
    actor = actors(Plain, num_gpus=8, runtime_env={"env_vars": two})
    if required:
        with pytest.raises(ray.exceptions.ActorDiedError, match=r"UnknownGpuError.*is not here"):
            ray.get(actor.seen.remote(), timeout=40)
    else:
        seen = ray.get(actor.seen.remote(), timeout=40)
        assert bound_to(seen, os.sched_getaffinity(0))
        assert any("launcher ray assigned GPU driver:0, driver:1" in note for note in seen["notes"])


def test_a_derived_class_binds_once_by_its_own_word(actors: Actors) -> None:
    """Before anything of its `__init__` runs; its base class, bound as well, does not bind again."""

    @bound(gpu="phys:1")
    class Derived(Plain):
        def __init__(self) -> None:
            self.early = masks()
            super().__init__()
            self.late = masks()

        def all(self) -> list[dict[str, list[int]]]:
            return [self.early, self.late]

    for found in ray.get(actors(Derived).all.remote()):
        assert {tuple(mask) for mask in found.values()} == {(ODD,)}


def test_bind_needs_no_decorator(actors: Actors) -> None:
    """`affinity.bind()` in `__init__` is the same, for those that want a line before it."""

    class Own:
        def __init__(self) -> None:
            self.report = affinity.bind()

        def seen(self) -> tuple[list[str], dict[str, list[int]], bool]:
            return gpus(), masks(), affinity.current_report() is self.report

    mine, found, kept = ray.get(actors(Own).seen.remote())
    assert {tuple(mask) for mask in found.values()} == {(cpu_of(*mine),)}
    assert kept


def test_a_program_that_an_actor_starts_is_no_ray_worker(actors: Actors) -> None:
    """It inherits Ray's variables. torchrun inside an actor is torchrun, each rank with its own GPU."""
    text = "import affinity; print(affinity.plan(node=0).launch.mode.value)"

    class Parent:
        def modes(self) -> list[str]:
            import subprocess
            import sys

            torchrun = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
            run = lambda extra: subprocess.run(  # noqa: E731
                [sys.executable, "-c", text], capture_output=True, text=True, check=True, env={**os.environ, **extra}
            ).stdout.strip()
            return ["RAY_JOB_ID" in os.environ and affinity.plan(node=0).launch.mode.value, run({}), run(torchrun)]

    assert ray.get(actors(Parent).modes.remote()) == ["ray", "inline", "torchrun"]


def test_a_decorator_in_the_wrong_place_is_refused_saying_the_right_one() -> None:
    """Above `@ray.remote` it would see Ray's actor class."""
    with pytest.raises(affinity.UsageError, match=r"put @ray.remote above @bound"):
        bound(ray.remote(Plain))
    with pytest.raises(affinity.UsageError, match="expected a class or a plain function"):
        bound(EVEN)

    async def stream() -> Any:
        yield

    with pytest.raises(affinity.UsageError, match="expected a class or a plain function"):
        bound(stream)
