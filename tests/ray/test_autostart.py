"""`AFFINITY_AUTOSTART=1` and a real Ray: actors and tasks that import nothing of this package are bound."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from unmodified import AT_IMPORT, Asynchronous, Grouped, Plain, look, memory_policy, proc_masks, work
from workers import EVEN, ODD, RAY, STAND_INS, cpu_of, running

from affinity.integrations.ray import audit, bound

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("node"),
    pytest.mark.timeout(120),
    pytest.mark.skipif(EVEN == ODD, reason="one CPU: a worker cannot be seen bound"),
]

Actors = Callable[..., Any]
FREE = (tuple(sorted(os.sched_getaffinity(0))),)


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    """Ray, whose workers all start with AFFINITY_AUTOSTART=1."""
    with running(**STAND_INS, AFFINITY_AUTOSTART="1"):
        yield


def one(masks: dict[str, tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The different masks of the threads of a process."""
    return tuple(sorted(set(masks.values())))


def on_its_cpu(seen: dict[str, Any]) -> bool:
    return one(seen["masks"]) == ((cpu_of(*seen["gpus"]),),)


def test_an_actors_module_is_imported_on_its_gpus_cpus(actors: Actors) -> None:
    """Before `__init__` and before its class is unpickled: every thread, and the memory policy."""
    found = ray.get([actor.seen.remote() for actor in [actors(Plain, 7) for _ in range(2)]])
    assert len({tuple(seen["init"]["gpus"]) for seen in found}) == 2
    for seen in found:
        cpu = cpu_of(*seen["init"]["gpus"])
        assert [one(seen[when]["masks"]) for when in ("import", "init", "now")] == [((cpu,),)] * 3
        assert [seen[when]["memory"] for when in ("import", "init", "now")] == ["prefer:0"] * 3
        assert len(seen["import"]["masks"]) > 10
        assert seen["given"] == (7,)


def test_an_asyncio_actor_is_bound(actors: Actors) -> None:
    """Its `__init__` is not on the main thread."""
    seen = ray.get(actors(Asynchronous).seen.remote())
    assert [on_its_cpu(seen[when]) for when in ("init", "now")] == [True, True]
    assert seen["init"]["memory"] == "prefer:0"


def test_a_threaded_actor_and_its_concurrency_groups_are_bound(actors: Actors) -> None:
    """Methods on four threads."""
    actor = actors(Grouped, max_concurrency=2, concurrency_groups={"io": 2})
    calls = [actor.compute.remote(), actor.compute.remote(), actor.load.remote(), actor.load.remote()]
    found = ray.get(calls, timeout=60)
    assert len({seen["thread"] for seen in found}) == 4
    assert all(on_its_cpu(seen) for seen in found)
    assert {seen["memory"] for seen in found} == {"prefer:0"}


def test_several_gpus_place_an_actor_beside_all(actors: Actors) -> None:
    """The union of their CPUs."""
    seen = ray.get(actors(Plain, num_gpus=2).seen.remote())["now"]
    assert one(seen["masks"]) == (tuple(sorted({cpu_of(gpu) for gpu in seen["gpus"]})),)


def test_an_actor_without_a_gpu_is_not_touched(actors: Actors) -> None:
    """Neither its masks nor its environment."""
    seen = ray.get(actors(Plain, num_gpus=0).seen.remote())["now"]
    assert (one(seen["masks"]), seen["memory"], seen["record"]) == (FREE, "default", None)


def test_ray_is_asked_where_it_leaves_cuda_visible_devices_alone(actors: Actors) -> None:
    """RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES: every worker sees all GPUs, and has one of them."""
    noset = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
    found = ray.get([actor.seen.remote() for actor in [actors(Plain, runtime_env=noset) for _ in range(2)]])
    assert [seen["now"]["cuda"] for seen in found] == [None, None]
    assert len({tuple(seen["init"]["gpus"]) for seen in found}) == 2
    assert all(on_its_cpu(seen["import"]) for seen in found)


def test_the_handle_of_another_actor_binds_no_one(actors: Actors) -> None:
    """Ray loads the class of a handle too: in a task without a GPU, and in an actor that is bound already."""
    other = actors(Plain)
    seen = ray.get(ray.remote(num_cpus=0)(work).remote(other))
    assert (one(seen["masks"]), seen["record"]) == (FREE, None)
    seen = ray.get(actors(Plain, other).seen.remote())
    assert on_its_cpu(seen["now"])


def test_an_actor_of_a_bound_class_is_bound_once(actors: Actors) -> None:
    """`@bound` finds its process bound before its own code, and the record of the audit is there."""

    @bound
    class Decorated(Plain):
        def strategy(self) -> str:
            import affinity

            made = affinity.current_report()
            assert made is not None
            return made.strategy

    actor = actors(Decorated)
    assert on_its_cpu(ray.get(actor.seen.remote())["init"])
    assert ray.get(actor.strategy.remote()) == "libnuma"  # a second bind would have had nothing to do


def test_the_audit_shows_actors_that_were_bound_before_their_class(actors: Actors) -> None:
    """With the name of their class, as those that bind themselves."""
    actor = actors(Plain)
    pid = ray.get(actor.seen.remote())["now"]["pid"]
    (row,) = (row for row in audit(timeout=60) if row.pid == pid)
    assert (row.name, row.error, row.threads_outside, row.in_force) == ("Plain", "", 0, True)


KEPT = {"num_gpus": 1, "num_cpus": 0, "max_retries": 0, "max_calls": 0}


def given_back(pid: int) -> bool:
    """Whether every thread of a worker whose task has ended has the CPUs from before, and its memory policy is gone."""
    deadline = time.monotonic() + 20
    while one(proc_masks(pid)) != FREE and time.monotonic() < deadline:  # a streaming task ends after its last value
        time.sleep(0.05)
    return (one(proc_masks(pid)), memory_policy(pid)) == (FREE, "default")


def test_a_task_is_bound_and_its_worker_is_not_afterwards() -> None:
    """Also where the worker gets another GPU, with other CPUs, for its next task."""
    run = ray.remote(**KEPT)(work)
    cpus: dict[int, set[int]] = {}
    for _ in range(20):  # Ray pairs workers and GPUs as they come
        for seen in ray.get([run.remote(0.05) for _ in range(3)]):
            assert on_its_cpu(seen)
            assert seen["memory"] == "prefer:0"
            cpus.setdefault(seen["pid"], set()).add(cpu_of(*seen["gpus"]))
        if any(len(found) == 2 for found in cpus.values()):
            break
    else:
        raise AssertionError(f"no worker had GPUs of both kinds: {cpus}")
    assert [given_back(pid) for pid in cpus] == [True] * len(cpus)


def test_a_task_without_a_gpu_is_not_touched() -> None:
    """Neither its masks nor its environment."""
    seen = ray.get(ray.remote(**KEPT | {"num_gpus": 0})(work).remote())
    assert (one(seen["masks"]), seen["memory"], seen["record"]) == (FREE, "default", None)


def test_a_task_that_fails_gives_its_binding_back() -> None:
    """And its error is its own."""

    def fails() -> None:
        raise KeyError(os.getpid(), on_its_cpu(look()))

    with pytest.raises(KeyError) as failed:
        ray.get(ray.remote(**KEPT)(fails).remote())
    pid, was_bound = failed.value.cause.args
    assert was_bound
    assert given_back(pid)


def generate() -> Iterator[dict[str, Any]]:
    for _ in range(2):
        yield look()


def returns_a_generator() -> Iterator[dict[str, Any]]:
    return generate()


@pytest.mark.parametrize("function", [generate, returns_a_generator])
def test_a_generator_task_is_bound_until_its_last_value(function: Callable[..., Any]) -> None:
    """Ray consumes it in the worker; also where a plain function returns one."""
    streaming = "streaming" if function is generate else 2
    seen = [ray.get(value) for value in ray.remote(**KEPT, num_returns=streaming)(function).remote()]
    assert [on_its_cpu(s) for s in seen] == [True, True]
    assert given_back(seen[0]["pid"])


def test_a_bound_task_is_given_back_too() -> None:
    """`@bound` within the bind of autostart."""
    seen = ray.get(ray.remote(**KEPT)(bound(work)).remote())
    assert on_its_cpu(seen)
    assert given_back(seen["pid"])


#: Another library's driver, which has a setup hook of its own and starts Ray itself.
HOOKED = """
import os, ray
from unmodified import Plain

def hook(): os.environ["HOOK"] = "ran"

def environ(actor): return os.environ["HOOK"]

{init}
actor = ray.remote(num_gpus=1)(Plain).remote()
seen = ray.get(actor.seen.remote())
print(ray.get(actor.__ray_call__.remote(environ)), {{*seen["import"]["masks"].values()}}, seen["init"]["gpus"])
"""


def program(text: str, folder: Path, **variables: str) -> str:
    """The last line that a driver of its own Ray prints."""
    (folder / "driver.py").write_text(text)
    environ = {**os.environ, **RAY, **STAND_INS, **variables}
    command = [sys.executable, str(folder / "driver.py")]
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, timeout=100, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("of", ["node", "job"])
def test_it_works_beside_the_setup_hook_of_another_library(of: str, tmp_path: Path) -> None:
    """Ray has one slot for such a hook; the variable is of the whole Ray, or of the job's runtime environment."""
    environ = {"AFFINITY_AUTOSTART": "1"}
    job = {"env_vars": environ} if of == "job" else {}
    init = f"ray.init(num_cpus=1, num_gpus=8, runtime_env={{'worker_process_setup_hook': hook, **{job!r}}})"
    seen = program(HOOKED.format(init=init), tmp_path, **(environ if of == "node" else {}))
    assert seen == f"ran {{({EVEN},)}} ['0']"


def test_the_program_of_the_page_prints_the_cpus_of_the_gpu(tmp_path: Path) -> None:
    """docs/howto/ray-libraries.md; this machine lacks the GPU alone."""
    page = Path(__file__).resolve().parent.parent.parent / "docs/howto/ray-libraries.md"
    (text,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert "ray.init(" in text
    assert program(text.replace("ray.init(", "ray.init(num_gpus=8, "), tmp_path) == str(EVEN)


def test_it_works_in_an_interpreter_that_a_program_starts(actors: Actors, tmp_path: Path) -> None:
    """As `uv run` does: it is the parent of the worker's interpreter, and stays."""
    program = tmp_path / "run"
    program.write_text(f'#!/bin/sh\n"{sys.executable}" "$@" &\nwait $!\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    seen = ray.get(actors(Plain, runtime_env={"py_executable": str(program)}).seen.remote(), timeout=100)
    assert on_its_cpu(seen["import"])
    assert one(seen["import"]["masks"]) == one(seen["now"]["masks"])


@pytest.mark.parametrize("off", [{"AFFINITY_AUTOSTART": "0"}, {"AFFINITY_AUTO": "0"}])
def test_it_is_switched_off_for_one_actor(actors: Actors, off: dict[str, str]) -> None:
    """The node's workers have AFFINITY_AUTOSTART=1."""
    seen = ray.get(actors(Plain, runtime_env={"env_vars": off}).seen.remote())["now"]
    assert (one(seen["masks"]), seen["memory"], seen["record"]) == (FREE, "default", None)


IMPOSSIBLE = {"AFFINITY_CPUS": "|".join(["8191"] * 8)}


@pytest.mark.parametrize("kind", [Plain, Asynchronous])
def test_an_actor_that_must_not_start_unbound_fails_at_its_creator(actors: Actors, kind: type) -> None:
    """With our words, and its class is not loaded; without `required` it runs unbound."""
    seen = ray.get(actors(kind, runtime_env={"env_vars": IMPOSSIBLE}).seen.remote(), timeout=60)["now"]
    assert one(seen["masks"]) == FREE
    required = {"env_vars": {**IMPOSSIBLE, "AFFINITY_ENFORCE": "required"}}
    with pytest.raises(ray.exceptions.ActorDiedError, match="AFFINITY_CPUS gives CPUs 8191 to this worker"):
        ray.get(actors(kind, runtime_env=required).seen.remote(), timeout=60)


def test_a_task_that_must_not_run_unbound_fails_at_its_caller() -> None:
    """And runs without `required`, with a mistake in the settings too."""
    for environ in (IMPOSSIBLE, {"AFFINITY_MEMORY": "near"}, {"AFFINITY_AUTOSTART": "maybe"}):
        call = ray.remote(**KEPT, runtime_env={"env_vars": environ})(work)
        assert one(ray.get(call.remote(), timeout=60)["masks"]) == FREE
        required = {"env_vars": {**environ, "AFFINITY_ENFORCE": "required"}}
        call = ray.remote(**KEPT, runtime_env=required)(work)
        with pytest.raises(ray.exceptions.RayTaskError, match=r"CPUs 8191 to this worker|'near'|'maybe'"):
            ray.get(call.remote(), timeout=60)


def test_this_process_is_no_worker() -> None:
    """The driver, which the variable reaches too, loads the classes of its actors unbound."""
    assert AT_IMPORT["record"] is None
    assert one(proc_masks()) == FREE
