"""`affinity ray`: inspect every node of a running Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from affinity.cli import _options, _output, draw, plan

if TYPE_CHECKING:
    from affinity.integrations.ray import ActorAudit, NodeSurvey

T = TypeVar("T")


def _html(_context: click.Context, _parameter: click.Parameter, path: str | None) -> str | None:
    from affinity.errors import UsageError

    if path is not None and not path.endswith(".html"):
        raise UsageError(f"-o {path}: expected a name that ends in .html")
    return path


_address = click.option("--address", default="auto", show_default=True, help="Address of the cluster, as for ray.init.")
_timeout = click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help="Seconds to wait for the nodes to reply.",
)  # fmt: skip
_page = click.option(
    "-o", "--output", metavar="FILE.html", callback=_html, help="Write one page, with what is alike folded together."
)


@click.group(short_help="Survey and audit a running Ray cluster.")
def command() -> None:
    """Inspect a running Ray cluster: the plan of each machine, and the state of each bound actor.

    Exit status 1 if a node does not reply or a binding is no longer in force.
    """


@command.command()
@_address
@_timeout
@_page
@_options.as_json
def survey(address: str, timeout: float, output: str | None, as_json: bool) -> None:
    """Show the machine of every alive node, and its plan for the worker of each GPU. Changes nothing."""
    from affinity.integrations import ray

    found = []
    with ray.connected(address) as nodes:
        for node in _progress(ray.survey(timeout=timeout), f"of {len(nodes)} nodes have replied"):
            found.append(node)
            if not as_json and output is None:
                _show(node)
    if output is not None:
        from affinity.integrations.ray import pages

        draw.write(output, pages.survey(found))
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
    rows = []
    for p in node.plans:
        place = (p["cpus"], _memory(p["memory"])) if p["strategy"] != "noop" else (None, None)
        found = p["gpu"]
        reason = p["problem"] or p["reason"]
        rows.append((*p["references"], found["name"], found["model"], p["node"], *place, p["strategy"], reason))
    nodes = ", ".join(f"{n['id']} (CPUs {n['allowed_cpus'] or 'none'})" for n in node.machine["nodes"])
    _output.table(f"{title}: NUMA nodes {nodes}", plan.COLUMNS, rows, optional=plan.OPTIONAL)
    _output.lines("note", node.machine["notes"])


def _memory(shape: dict[str, Any]) -> str:
    return f"{shape['mode']}:{','.join(map(str, shape['nodes']))}" if shape["nodes"] else shape["mode"]


@command.command()
@_address
@_timeout
@click.option("--attach", is_flag=True, help="Bind the misplaced actors where they run, as `affinity attach` does.")
@_page
@_options.as_json
def audit(address: str, timeout: float, attach: bool, output: str | None, as_json: bool) -> None:
    """Show the threads and pages of every actor that has a GPU or bound itself, as read from the kernel now.

    Exit status 1 if a binding is no longer in force, an actor is misplaced or could not be read; with --attach 2 or 3,
    as of `affinity attach`, if a bind failed.
    """
    from affinity.integrations import ray

    with ray.connected(address) as nodes:
        actors = ray.audit(timeout=timeout, attach=attach)
        found = list(_progress(actors, f"actors have been checked, on {len(nodes)} nodes"))
    if output is not None:
        from affinity.integrations.ray import pages

        draw.write(output, pages.audit(found, _remarks))
    if as_json:
        _output.json([_actor_shape(actor) for actor in found])
    elif output is None:
        _show_actors(found)
    failed = [actor.attached.get("exit_status", 0) for actor in found if actor.attached is not None]
    sys.exit(max([not all(actor.is_well for actor in found), *failed]))


def _show_actors(found: Sequence[ActorAudit]) -> None:
    if not found:
        print("no living actor of this cluster has a GPU or bound itself")
        return
    columns = ("actor", "host", "pid", "GPUs", "CPUs", "threads", "outside", "local pages", "bound by", "holds",
               "locality", "error")  # fmt: skip
    optional = ("threads", "outside", "bound by", "holds", "local pages", "pid", "host", "GPUs", "CPUs")
    _output.table("Actors with a GPU and actors that bound themselves", columns, map(_row, found), optional=optional)
    for actor in found:
        _output.lines(f"{actor.name or actor.actor}, {actor.host}, {actor.pid}", _remarks(actor))


def _row(actor: ActorAudit) -> tuple[object, ...]:
    import time

    from affinity.kernel.pages import share_error

    process = actor.process or {}
    bound = process.get("bound")
    placed = (actor.report["requested"] if actor.report is not None else process.get("placement")) or {}
    local = None if actor.local_share is None else f"{actor.local_share:.0%}"
    if local and actor.resident_sampled:
        local += f" ±{share_error(actor.resident_sampled):.0%}"
    since = time.strftime("%b %d %H:%M", time.localtime(bound["since"])) if bound else ""
    return (
        actor.name or actor.actor,
        actor.host,
        actor.pid,
        ", ".join(gpu["name"] for gpu in actor.gpus),
        placed.get("cpus"),
        actor.threads,
        actor.threads_outside,
        local,
        f"{bound['strategy']} since {since}" if bound else None,
        actor.in_force,
        process.get("locality"),
        actor.error,
    )


def _remarks(actor: ActorAudit) -> list[str]:
    """Return what was done to an actor, and what is to be done."""
    found, attached = actor.process, actor.attached
    lines = []
    if attached is not None and "report" in attached:
        report = attached["report"]
        seen, placed = report["observed"], (report["requested"] or {}).get("cpus")
        lines.append(f"attached: {seen['threads_within']} of {seen['threads']} threads are on CPUs {placed}")
        for action, _, error, remedy in (shape.values() for shape in report["degradations"]):
            lines.append(f"degraded: {action}: {error}{f'; {remedy}' if remedy else ''}")
    elif attached is not None:
        lines += [f"left alone: {attached['left_alone']}"] if "left_alone" in attached else []
        lines += [f"not attached: {attached['error']}"] if "error" in attached else []
    if found is not None and found["locality"] != "local" and not actor.in_force:
        remedy = f"; on its node: {found['remedy']}" if found["remedy"] else ""
        lines.append(f"{found['locality']}: {found['reason']}{remedy}")
    return lines


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
