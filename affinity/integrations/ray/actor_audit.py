"""`audit`: the state of every actor that bound itself or has a GPU, as the kernel shows it now.

The actor itself is not called: one that runs its event loop in a method answers no call. When it binds it writes a
record to the cluster's key-value store; the actors with GPUs are listed by Ray. A task on each node looks at their
processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import attrs

from affinity.integrations.ray import cluster
from affinity.integrations.ray.actor_state import Asked, Found, inspect
from affinity.integrations.ray.actor_table import GpuActor, gpu_actors
from affinity.integrations.ray.store import STORE, parse_record


@attrs.frozen
class ActorAudit:
    """One actor.

    actor: Ray's id. name: its own, else its class's, else "" (it was bound outside its methods). node, host, pid: where
    it runs. report: what it found when it bound itself, in the shape of docs/reference/json.md; None if it did not.
    gpus: in that shape. threads: those it has now, and threads_outside: how many of them may run on CPUs that were not
    placed, None if its GPU's CPUs are not known. resident: bytes of its own pages by node now, None if unreadable.
    resident_sampled: pages that this is estimated from, 0 if all were counted. in_force: what was requested was put in
    force (nothing, if it was placed nowhere), and no more threads are outside than were then; None if it did not bind
    itself. process: the actor as `affinity ps` shows it; its `bound` is the last bind, of any kind. attached: the
    report of the bind from outside, else why there was none; None if none was to be made. error: why nothing could be
    read, "" if it could.
    """

    actor: str
    name: str
    node: str
    host: str
    pid: int
    report: dict[str, Any] | None
    gpus: tuple[dict[str, Any], ...] = ()
    threads: int = 0
    threads_outside: int | None = 0
    resident: dict[int, int] | None = None
    resident_sampled: int = 0
    in_force: bool | None = False
    process: dict[str, Any] | None = None
    attached: dict[str, Any] | None = None
    error: str = ""

    @property
    def local_share(self) -> float | None:
        """Share (0 to 1) of its own pages on the nodes it was placed on, else on those of its GPUs; None if unknown."""
        if self.report is None:
            return self.process["local_share"] if self.process is not None else None
        placed = (self.report["requested"] or {}).get("nodes", [])
        total = sum(self.resident.values()) if self.resident else 0
        return sum(self.resident.get(n, 0) for n in placed) / total if self.resident and total and placed else None

    @property
    def is_well(self) -> bool:
        """Whether it could be read, its bind of itself is in force, and else it is not misplaced."""
        if self.error or self.in_force is False:
            return False
        return self.in_force is True or self.process is None or self.process["locality"] in ("local", "unknown")


def audit(*, timeout: float = 60, attach: bool = False) -> Iterator[ActorAudit]:
    """Yield every living actor of the cluster that bound itself or has a GPU, each when its node answers.

    timeout: seconds for all nodes; actors of a silent one have an `error`, as has one whose record cannot be read, and
    a row without an actor if Ray does not list those with GPUs. The records of actors that have ended are deleted.
    attach: bind the misplaced ones from outside, but for those that something else has bound. Raises UsageError if this
    process is connected to no cluster.
    """
    hosts = cluster.alive()
    by_node: dict[str, dict[str, Asked]] = {node: {} for node in hosts}
    for actor, value in _records():
        try:
            written = parse_record(value)
        except ValueError as wrong:
            unread: dict[str, Any] = {"requested": None, "satisfied": False, "gpus": []}
            yield ActorAudit(actor, "", "", "", 0, unread, error=f"its record cannot be read: {wrong}")
            continue
        if written["node"] in hosts:
            by_node[written["node"]][actor] = Asked(written)
        else:
            _delete(actor, written)
    try:
        listed = gpu_actors()
    except Exception as wrong:  # Ray's internals, of any version: those that bound themselves are audited anyway
        listed = []
        reason = f"Ray does not list the actors with GPUs ({type(wrong).__name__}: {wrong}): only those that bound "
        yield ActorAudit("", "", "", "", 0, None, error=f"{reason}themselves are shown")
    for found in listed:
        if found.node in hosts:  # else it has just died
            actors = by_node[found.node]
            actors[found.actor] = actors.get(found.actor, Asked())._replace(listed=found)
    questions = {node: (inspect, (actors, attach)) for node, actors in by_node.items() if actors}
    for answer in cluster.run_on_nodes(questions, hosts, timeout):
        for actor, asked in by_node[answer.node].items():
            seen = Found(False, {"error": answer.error}) if answer.value is None else answer.value[actor]
            record = asked.record
            if seen.is_stale and record is not None:
                _delete(actor, record)
                record = None
            if seen.audit is not None:
                fields = {"in_force": None if record is None else False, **seen.audit}
                yield ActorAudit(actor, *_name_and_place(record, asked.listed, answer), **fields)


def _name_and_place(
    record: dict[str, Any] | None, listed: GpuActor | None, answer: cluster.Answer[Any]
) -> tuple[str, str, str, int, dict[str, Any] | None]:
    """Return the name, the place and the report of an actor."""
    if record is not None:
        return record["name"], answer.node, answer.host, record["pid"], record["report"]
    assert listed is not None
    return listed.name, answer.node, answer.host, listed.pid, None


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
