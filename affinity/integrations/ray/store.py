"""What an actor that binds leaves in the cluster's key-value store, for `audit`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from affinity.kernel.procfs import START_TIME, read_stat

if TYPE_CHECKING:
    from affinity.report.report import BindReport

#: The store's namespace; a key is an actor's id.
STORE = b"numa-affinity"


def publish(report: BindReport | None, context: Any) -> None:
    """Write the record of this actor's bind over an earlier one; delete it if the report is None.

    context: of this worker (`affinity.integrations.ray.launcher.worker_context`). A task has no record.
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
    told = {
        "name": context.get_actor_name() or function,
        "node": context.get_node_id(),
        "pid": os.getpid(),
        "who": who("/proc/self"),
        "left_alone": report.unbound_threads,
        "report": serialize.report(report),
    }
    _internal_kv_put(actor.encode(), json.dumps(told).encode(), namespace=STORE)


def who(directory: str) -> list[str]:
    """PID namespace and start time (clock ticks since boot): with the PID, one process and no other.

    Raises FileNotFoundError or ProcessLookupError where it has ended. Source: proc(5).
    """
    start = started(directory)  # first: it knows a zombie
    return [os.readlink(f"{directory}/ns/pid"), start]


def started(directory: str) -> str:
    """When the process started, in clock ticks since boot; everybody may know. Errors as `who`."""
    fields = read_stat(directory)
    if fields[0] == "Z":
        raise ProcessLookupError(f"{directory}: a zombie")
    return fields[START_TIME]
