"""What an actor that binds leaves in the cluster's key-value store, for `audit`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from affinity.kernel.linux import THIS_PROCESS
from affinity.topology.cpuset import CpuSet, NodeSet

if TYPE_CHECKING:
    from affinity.report.report import BindReport

#: The store's namespace; a key is an actor's id.
STORE = b"numa-affinity"


def publish(report: BindReport | None, context: Any) -> None:
    """Write the record of this actor's bind over an earlier one; delete it if the report is None.

    context: of this worker (`affinity.integrations.ray.context.worker_context`). A task has no record.
    """
    import json

    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    from affinity.render import serialize

    actor = context.get_actor_id() if context else None
    if actor is None:
        return
    if report is None:
        _internal_kv_del(actor.encode(), namespace=STORE)
        return
    _, _, function = context.get_task_function_name().rpartition(".")[0].rpartition(".")  # "" in a thread of its own
    record = {
        "name": context.get_actor_name() or function,
        "node": context.get_node_id(),
        "pid": os.getpid(),
        "identity": THIS_PROCESS.identity(),
        "namespace": pid_namespace(),
        "left_alone": report.unbound_threads,
        "report": serialize.report(report),
    }
    _internal_kv_put(actor.encode(), json.dumps(record).encode(), namespace=STORE)


def parse_record(value: bytes) -> dict[str, Any]:
    """Return an actor's record. Raises ValueError if it is none, or of a version of this package with other fields."""
    import json

    record = json.loads(value)
    if not isinstance(record, dict):
        raise ValueError(f"a JSON object was expected, not {record!r:.40}")
    missing = [name for name, kind in FIELDS.items() if not isinstance(record.get(name), kind)]
    if missing:
        raise ValueError(f"its {', '.join(missing)} is missing or of another kind")
    report = record["report"]
    try:
        requested = report["requested"] or {"cpus": None, "nodes": []}
        _ = CpuSet.parse(requested["cpus"] or ""), NodeSet(requested["nodes"])
        _ = report["satisfied"], [gpu["name"] for gpu in report["gpus"]]
    except (KeyError, TypeError, AttributeError, ValueError) as wrong:
        raise ValueError(f"its report is of another kind ({type(wrong).__name__}: {wrong})") from wrong
    return record


FIELDS = {
    "name": str, "node": str, "pid": int, "identity": str, "namespace": str, "left_alone": int, "report": dict,
}  # fmt: skip


def pid_namespace() -> str:
    """Return the PID namespace of this process. Source: namespaces(7)."""
    return os.readlink("/proc/self/ns/pid")
