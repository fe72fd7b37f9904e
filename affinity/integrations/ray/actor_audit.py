"""`audit`: what the kernel says now of every actor that bound itself.

The actor itself is not asked: one that runs its event loop in a method answers no call. When it binds it leaves a
record in the cluster's key-value store; the audit reads /proc of its process from a task on its node. Sources:
proc(5), numa(7), sched_getaffinity(2).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import attrs

from affinity.integrations.ray import cluster
from affinity.integrations.ray.store import STORE, started, who
from affinity.topology.cpuset import CpuSet


@attrs.frozen
class ActorAudit:
    """One actor.

    actor: Ray's id. name: its own, else its class's, else "" (it was bound outside its methods). node, host, pid: where
    it runs. report: what it found when it bound, in the shape of docs/reference/json.md. threads: those it has now, and
    threads_outside: how many of them may run on CPUs that were not placed. resident: bytes of its own pages by node
    now, None if unreadable. in_force: what was to be done was (nothing, if it was placed nowhere), and no more threads
    are outside than were then. error: why nothing could be learnt, "" if it could.
    """

    actor: str
    name: str
    node: str
    host: str
    pid: int
    report: dict[str, Any]
    threads: int = 0
    threads_outside: int = 0
    resident: dict[int, int] | None = None
    in_force: bool = False
    error: str = ""

    @property
    def local_share(self) -> float | None:
        """Share (0 to 1) of its own pages on the nodes it was placed on; None where unknown."""
        placed = (self.report["requested"] or {}).get("nodes", [])
        total = sum(self.resident.values()) if self.resident else 0
        return sum(self.resident.get(n, 0) for n in placed) / total if self.resident and total and placed else None


def audit(*, timeout: float = 60) -> Iterator[ActorAudit]:
    """Every living actor of the cluster that bound itself, each as its node answers.

    timeout: seconds for all nodes; actors of a silent one are reported with `error`. The records of actors that
    have ended are dropped. Raises UsageError where this process is connected to no cluster.
    """
    hosts = cluster.alive()
    by_node: dict[str, dict[str, dict[str, Any]]] = {}
    for actor, told in _records():
        by_node.setdefault(told["node"], {})[actor] = told
    for gone in by_node.keys() - hosts.keys():
        for actor, told in by_node.pop(gone).items():
            _drop(actor, told)
    for answer in cluster.ask({node: (_look, told) for node, told in by_node.items()}, hosts, timeout):
        for actor, told in by_node[answer.node].items():
            found = {"error": answer.error} if answer.said is None else answer.said[actor]
            if found is None:
                _drop(actor, told)
                continue
            yield ActorAudit(actor, told["name"], answer.node, answer.host, told["pid"], told["report"], **found)


def _records() -> Iterator[tuple[str, dict[str, Any]]]:
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

    for key in _internal_kv_list(b"", namespace=STORE):
        value = _internal_kv_get(key, namespace=STORE)
        if value is not None:  # else another audit has dropped it meanwhile
            yield key.decode(), json.loads(value)


def _drop(actor: str, told: dict[str, Any]) -> None:
    """Forget what a process that has ended left; not what the actor, restarted meanwhile, says of its new one."""
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get

    value = _internal_kv_get(actor.encode(), namespace=STORE)
    if value is not None and json.loads(value) == told:
        _internal_kv_del(actor.encode(), namespace=STORE)


def _look(records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any] | None]:
    """Runs on the node: what /proc shows of each actor; None for one that has ended."""
    return {actor: _look_at(told) for actor, told in records.items()}


def _look_at(told: dict[str, Any]) -> dict[str, Any] | None:
    from affinity.kernel.procfs import anonymous_bytes

    directory = f"/proc/{told['pid']}"
    if who("/proc/self")[0] != told["who"][0]:
        return {"error": "it runs in another container (PID namespace) than its node's tasks: nothing is seen of it"}
    try:
        if who(directory) != told["who"]:
            return None
        masks = _masks(os.listdir(f"{directory}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError as refused:  # it is another user's: by its start time, the actor or who came after it
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return None if started(directory) != told["who"][1] else {"error": str(refused)}
        return None
    requested = told["report"]["requested"]
    cpus = CpuSet.parse(requested["cpus"]) if requested and requested["cpus"] is not None else None
    outside = sum(not mask <= cpus for mask in masks) if cpus is not None else 0
    try:
        with open(f"{directory}/numa_maps", encoding="utf-8", errors="replace") as maps:
            resident = anonymous_bytes(maps)
    except OSError:
        resident = None
    holds = told["report"]["satisfied"] and outside <= told["left_alone"]
    return {"threads": len(masks), "threads_outside": outside, "resident": resident, "in_force": holds}


def _masks(threads: list[str]) -> list[CpuSet]:
    masks = []
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):  # it ended since it was listed
            masks.append(CpuSet(os.sched_getaffinity(int(thread))))
    return masks
