"""Tasks of a real Ray: bound while they run, and not after; Ray hands their process to the next one.

Of its own accord Ray ends the worker of a task that asked for a GPU; `max_calls=0` keeps it, as it keeps all others.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
from workers import cpu_of, gpus, masks

import affinity
from affinity.integrations.ray import bound
from affinity.kernel.linux import THIS_PROCESS

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("node"), pytest.mark.timeout(60)]

FREE = sorted(os.sched_getaffinity(0))


def look() -> dict[str, Any]:
    """This worker, now."""
    return {
        "pid": os.getpid(),
        "gpus": gpus(),
        "masks": {tuple(mask) for mask in masks().values()},
        "memory": str(THIS_PROCESS.get_mempolicy()),
        "note": os.environ.get("AFFINITY_BOUND"),
        "report": affinity.current_report() is not None,
    }


@bound
def work(seconds: float = 0) -> dict[str, Any]:
    time.sleep(seconds)
    return look()


@bound
def fails() -> None:
    raise KeyError(os.getpid())


@bound
def stream() -> Iterator[dict[str, Any]]:
    for _ in range(2):
        yield look()


@bound
def starts_a_thread() -> int:
    """Leaves a thread behind in the worker, as a pool does that is made once for a process."""
    started = threading.Event()
    threading.Thread(target=lambda: (started.set(), time.sleep(30)), daemon=True).start()
    started.wait(10)
    return os.getpid()


def run(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a task on one GPU. One remote function for all, so that Ray hands them the same worker."""
    return ray.get(_call.remote(function, *args), timeout=30)


KEPT = {"num_gpus": 1, "num_cpus": 0, "max_retries": 0, "max_calls": 0}


@ray.remote(**KEPT)
def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def next_in(pid: int) -> dict[str, Any]:
    """What an unbound task sees in a worker that another task has left."""
    for _ in range(20):
        seen: dict[str, Any] = run(look)
        if seen["pid"] == pid:
            return seen
    raise AssertionError(f"Ray gave worker {pid} to no further task")


def untouched(seen: dict[str, Any]) -> bool:
    return seen["masks"] == {tuple(FREE)} and seen["memory"] == "default" and not seen["note"] and not seen["report"]


def test_a_task_is_bound_and_its_worker_is_not_afterwards() -> None:
    """Every thread, memory policy, variable and report are as if nothing had been."""
    seen = run(work)
    assert seen["masks"] == {(cpu_of(*seen["gpus"]),)}
    assert seen["memory"] == "preferred:0"
    assert seen["report"]
    assert untouched(next_in(seen["pid"]))


def test_a_task_that_fails_gives_its_binding_back_too() -> None:
    """And its error is its own."""
    with pytest.raises(KeyError) as failed:
        run(fails)
    assert untouched(next_in(failed.value.cause.args[0]))


def test_a_streaming_task_is_bound_until_its_last_value() -> None:
    """Ray consumes the generator in the worker."""
    values = ray.remote(**KEPT)(stream).remote()
    seen = [ray.get(value, timeout=30) for value in values]
    assert [s["masks"] for s in seen] == [{(cpu_of(*s["gpus"]),)} for s in seen]
    assert len(seen) == 2
    assert untouched(next_in(seen[0]["pid"]))


def test_a_thread_that_a_task_leaves_behind_is_given_back_too() -> None:
    """It inherited the task's CPUs, and would keep the next task's work on them."""
    pid = run(starts_a_thread)
    assert untouched(next_in(pid))


@pytest.mark.parametrize("give_back", [True, False])
def test_a_worker_that_gets_another_gpu_binds_anew_from_its_original_mask(give_back: bool) -> None:
    """Not within the first one's CPUs, where nothing would be left; also where a task calls `bind()` and leaves it."""

    def plain(seconds: float) -> dict[str, Any]:
        affinity.bind()
        time.sleep(seconds)
        return look()

    task = ray.remote(**KEPT)(work if give_back else plain)
    at: dict[int, set[int]] = {}
    for _ in range(20):  # Ray pairs workers and GPUs as they come
        for seen in ray.get([task.remote(0.05) for _ in range(3)], timeout=30):
            assert seen["masks"] == {(cpu_of(*seen["gpus"]),)}
            at.setdefault(seen["pid"], set()).add(int(*seen["gpus"]) % 2)
        if any(len(parities) == 2 for parities in at.values()):
            return
    raise AssertionError(f"no worker had GPUs of both kinds: {at}")
