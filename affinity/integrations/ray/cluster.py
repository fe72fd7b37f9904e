"""Run a function on every machine of the cluster: a task on each, values as they arrive, within a time limit."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import attrs

from affinity.errors import UsageError

A = TypeVar("A")


@attrs.frozen
class Answer(Generic[A]):
    """What came back from a machine. node: Ray's id. host: its name. value: None if `error` is why there is none."""

    node: str
    host: str
    value: A | None
    error: str = ""


@contextmanager
def connected(address: str = "auto") -> Iterator[dict[str, str]]:
    """Inside the block this process is a driver of a running cluster, without a word on the terminal.

    address: as of `ray.init`; `auto` finds the cluster of this machine. Gives the host name of each alive node, by
    Ray's id. Raises UsageError, with Ray's word, where there is no cluster.
    """
    try:
        import ray
    except ModuleNotFoundError as missing:
        raise UsageError("Ray is not installed: pip install 'numa-affinity[ray]'") from missing
    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as failed:
        raise UsageError(f"no Ray cluster at {address!r}: {_last_line(failed)}") from failed
    try:
        yield alive()
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError if the port is closed; ray.init would retry for two minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
            pass


def alive() -> dict[str, str]:
    """Host name of each alive node, by Ray's id. Raises UsageError where this process is connected to no cluster."""
    import ray

    if not ray.is_initialized():
        raise UsageError("not connected to a Ray cluster: call ray.init(address='auto') first, or pass --address")
    return {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}


def run_on_nodes(
    questions: dict[str, tuple[Callable[..., A], Any]], hosts: dict[str, str], timeout: float
) -> Iterator[Answer[A]]:
    """Run a function with one argument on each node named, at once, and give each answer when it comes.

    timeout: seconds for all of them. A node that dies, refuses or stays silent gives an Answer with `error`.
    The tasks ask for no CPU or GPU, so a busy node answers too, and are tried once.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    waiting = {}
    for node, (function, argument) in questions.items():
        task = ray.remote(num_cpus=0, max_retries=0)(function)
        waiting[task.options(scheduling_strategy=On(node, soft=False)).remote(argument)] = node
    end = time.monotonic() + timeout
    try:
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=max(end - time.monotonic(), 0))
            if not done:
                break
            node = waiting.pop(done[0])
            try:
                yield Answer(node, hosts[node], ray.get(done[0], timeout=timeout))
            except RayError as failed:
                yield Answer(node, hosts[node], None, _last_line(failed))
        for node in waiting.values():
            yield Answer(node, hosts[node], None, f"no answer within {timeout:g} s")
    finally:  # also where the caller has seen enough
        for task in waiting:
            ray.cancel(task, force=True)


def _last_line(error: Exception) -> str:
    """Ray's messages end with the cause, after the remote traceback."""
    return next(reversed([line.strip() for line in str(error).splitlines() if line.strip()]), type(error).__name__)
