"""`affinity ray`: inspect every node of a running Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from affinity.cli import _options, _output

if TYPE_CHECKING:
    from affinity.integrations.ray import ActorAudit, NodeSurvey

T = TypeVar("T")

_address = click.option("--address", default="auto", show_default=True, help="Address of the cluster, as for ray.init.")
_timeout = click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help="Seconds to wait for the nodes to reply.",
)  # fmt: skip


@click.group()
def command() -> None:
    """Inspect a running Ray cluster: the plan of each machine, and the state of each bound actor.

    Exit status 1 if a node does not reply or a binding is no longer in force.
    """


@command.command()
@_address
@_timeout
@_options.as_json
def survey(address: str, timeout: float, as_json: bool) -> None:
    """Show the machine of every alive node, and its plan for the worker of each GPU. Changes nothing."""
    from affinity.integrations import ray

    found = []
    with ray.connected(address) as nodes:
        for node in _progress(ray.survey(timeout=timeout), f"of {len(nodes)} nodes have replied"):
            found.append(node)
            if not as_json:
                _show(node)
    if as_json:
        _output.json([_node_shape(node) for node in found])
    sys.exit(any(node.error for node in found))


def _progress(items: Iterable[T], words: str) -> Iterator[T]:
    """Yield the items; on a terminal, print their number while waiting for the next one."""

    def show(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    show(f"0 {words}")
    for count, item in enumerate(items, 1):
        show("")
        yield item
        show(f"{count} {words}")
    show("")


def _show(node: NodeSurvey) -> None:
    title = f"{node.host}, node {node.node}"
    if node.machine is None:
        print(f"{title}: {node.error}")
        return
    rows = [
        (p["gpu"]["name"], p["node"], p["cpus"], _memory(p["memory"]), p["strategy"], p["problem"] or p["reason"])
        for p in node.plans
    ]
    nodes = ", ".join(f"{n['id']} (CPUs {n['allowed_cpus'] or 'none'})" for n in node.machine["nodes"])
    _output.table(f"{title}: NUMA nodes {nodes}", ("GPU", "node", "CPUs", "memory", "strategy", "reason"), rows)
    _output.lines("note", node.machine["notes"])


def _memory(shape: dict[str, Any]) -> str:
    return f"{shape['mode']}:{','.join(map(str, shape['nodes']))}" if shape["nodes"] else shape["mode"]


@command.command()
@_address
@_timeout
@_options.as_json
def audit(address: str, timeout: float, as_json: bool) -> None:
    """Show the threads and pages of every actor that bound itself, as read from the kernel now."""
    from affinity.integrations import ray

    with ray.connected(address) as nodes:
        found = list(_progress(ray.audit(timeout=timeout), f"actors have been checked, on {len(nodes)} nodes"))
    if as_json:
        _output.json([_actor_shape(actor) for actor in found])
    elif not found:
        print("no living actor of this cluster has bound itself (affinity.bind() or @affinity.integrations.ray.bound)")
    else:
        columns = ("actor", "host", "pid", "GPUs", "CPUs", "threads", "outside", "local pages", "holds", "error")
        _output.table("Actors that bound themselves, as read from the kernel", columns, map(_row, found))
    sys.exit(any(not actor.in_force for actor in found))


def _row(actor: ActorAudit) -> tuple[object, ...]:
    from affinity.kernel.pages import share_error

    requested = actor.report["requested"] or {}
    gpus = ", ".join(gpu["name"] for gpu in actor.report["gpus"])
    local = None if actor.local_share is None else f"{actor.local_share:.0%}"
    if local and actor.resident_sampled:
        local += f" ±{share_error(actor.resident_sampled):.0%}"
    return (actor.name or actor.actor, actor.host, actor.pid, gpus, requested.get("cpus"), actor.threads,
            actor.threads_outside, local, actor.in_force, actor.error)  # fmt: skip


def _node_shape(node: NodeSurvey) -> dict[str, Any]:
    import attrs

    from affinity.render.serialize import VERSION

    return {"version": VERSION, **attrs.asdict(node)}


def _actor_shape(actor: ActorAudit) -> dict[str, Any]:
    import attrs

    from affinity.render.serialize import VERSION

    shape = attrs.asdict(actor)
    shape["outside"], shape["holds"] = shape.pop("threads_outside"), shape.pop("in_force")
    return {"version": VERSION, **shape, "local_share": actor.local_share}
