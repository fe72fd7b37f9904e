"""`audit`: the state of every actor that bound itself, as the kernel shows it now.

The actor itself is not called: one that runs its event loop in a method answers no call. When it binds it writes a
record to the cluster's key-value store; the audit looks at its process from a task on its node.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import attrs

from affinity.integrations.ray import cluster
from affinity.integrations.ray.store import STORE, parse_record, pid_namespace
from affinity.kernel.linux import THIS_PROCESS
from affinity.kernel.protocol import Process
from affinity.topology.cpuset import CpuSet


@attrs.frozen
class ActorAudit:
    """One actor.

    actor: Ray's id. name: its own, else its class's, else "" (it was bound outside its methods). node, host, pid: where
    it runs. report: what it found when it bound, in the shape of docs/reference/json.md. threads: those it has now, and
    threads_outside: how many of them may run on CPUs that were not placed. resident: bytes of its own pages by node
    now, None if unreadable. resident_sampled: pages that this is estimated from, 0 if all were counted. in_force: what
    was requested was put in force (nothing, if it was placed nowhere), and no more threads are outside than were then.
    error: why nothing could be read, "" if it could.
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
    resident_sampled: int = 0
    in_force: bool = False
    error: str = ""

    @property
    def local_share(self) -> float | None:
        """Share (0 to 1) of its own pages on the nodes it was placed on; None if unknown."""
        placed = (self.report["requested"] or {}).get("nodes", [])
        total = sum(self.resident.values()) if self.resident else 0
        return sum(self.resident.get(n, 0) for n in placed) / total if self.resident and total and placed else None


def audit(*, timeout: float = 60) -> Iterator[ActorAudit]:
    """Yield every living actor of the cluster that bound itself, each when its node answers.

    timeout: seconds for all nodes; actors of a silent one have an `error`, as has one whose record cannot be read. The
    records of actors that have ended are deleted. Raises UsageError if this process is connected to no cluster.
    """
    hosts = cluster.alive()
    by_node: dict[str, dict[str, dict[str, Any]]] = {}
    for actor, value in _records():
        try:
            record = parse_record(value)
        except ValueError as wrong:
            unread: dict[str, Any] = {"requested": None, "satisfied": False, "gpus": []}
            yield ActorAudit(actor, "", "", "", 0, unread, error=f"its record cannot be read: {wrong}")
            continue
        by_node.setdefault(record["node"], {})[actor] = record
    for gone in by_node.keys() - hosts.keys():
        for actor, record in by_node.pop(gone).items():
            _delete(actor, record)
    for answer in cluster.run_on_nodes(
        {node: (_inspect, records) for node, records in by_node.items()}, hosts, timeout
    ):
        for actor, record in by_node[answer.node].items():
            found = {"error": answer.error} if answer.value is None else answer.value[actor]
            if found is None:
                _delete(actor, record)
                continue
            where = record["name"], answer.node, answer.host, record["pid"], record["report"]
            yield ActorAudit(actor, *where, **found)


def _records() -> Iterator[tuple[str, bytes]]:
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

    for key in _internal_kv_list(b"", namespace=STORE):
        value = _internal_kv_get(key, namespace=STORE)
        if value is not None:  # else another audit has deleted it meanwhile
            yield key.decode(errors="replace"), value


def _delete(actor: str, record: dict[str, Any]) -> None:
    """Delete the record of a process that has ended, not one that the actor, restarted meanwhile, has written since."""
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get

    value = _internal_kv_get(actor.encode(), namespace=STORE)
    with contextlib.suppress(ValueError):
        if value is not None and parse_record(value) == record:
            _internal_kv_del(actor.encode(), namespace=STORE)


def _inspect(records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any] | None]:
    """Return what the kernel shows of each actor, None for one that has ended. Runs on the node."""
    return {actor: _inspect_one(record) for actor, record in records.items()}


def _inspect_one(record: dict[str, Any]) -> dict[str, Any] | None:
    if pid_namespace() != record["namespace"]:
        return {"error": "it runs in another container (PID namespace) than its node's tasks: nothing is seen of it"}
    try:
        process = THIS_PROCESS.process(record["pid"])
        if process.identity() != record["identity"]:
            return None
        return _state(process, record)
    except ProcessLookupError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as wrong:  # one record costs its own row
        return {"error": f"{type(wrong).__name__}: {wrong}"}


def _state(process: Process, record: dict[str, Any]) -> dict[str, Any]:
    """Return the threads and pages of a process against what its record requested."""
    masks = []
    for tid in process.threads():
        with contextlib.suppress(ProcessLookupError):  # it ended since it was listed
            masks.append(process.get_affinity(tid))
    requested = record["report"]["requested"]
    cpus = CpuSet.parse(requested["cpus"]) if requested and requested["cpus"] is not None else None
    outside = sum(not mask <= cpus for mask in masks) if cpus is not None else 0
    found = {"threads": len(masks), "threads_outside": outside}
    found["in_force"] = record["report"]["satisfied"] and outside <= record["left_alone"]
    try:
        resident = process.resident_bytes()
    except ProcessLookupError:
        raise
    except OSError:  # another user's process, a kernel without NUMA, or a large process whose pages may not be sampled
        return found
    return {**found, "resident": dict(resident), "resident_sampled": resident.sampled}
