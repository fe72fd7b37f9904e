"""`affinity draw`: draw the machine, what a plan would give each GPU, and where the processes of the GPUs are."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from affinity.cli import _options, _output, _validate
from affinity.render import count_of

if TYPE_CHECKING:
    from affinity.host import Host
    from affinity.render.picture import Picture, Shape


@click.command()
@_options.machine
@click.option("--plan", "planned", is_flag=True, help="With what the worker of each GPU would be given.")
@_options.policy
@click.option("--ps", is_flag=True, help="With the threads and pages of the processes that use a GPU.")
@click.option("--all-users", is_flag=True, help="With --ps: processes of every user.")
@click.option("--bench", "measured", metavar="FILE", help="On a page: with heat maps of FILE, the output of "
              "`affinity bench --json`.")  # fmt: skip
@click.option("-o", "--output", metavar="FILE", help="Write FILE.svg or FILE.html instead of drawing in the terminal.")
def command(
    *,
    host: Host,
    planned: bool,
    policy: str | None,
    ps: bool,
    all_users: bool,
    measured: str | None,
    output: str | None,
) -> None:
    """Draw packages, NUMA nodes, caches and cores, with the GPUs and network adapters at their nodes.

    Equal cores are drawn as one box. --policy implies --plan.
    """
    from affinity.errors import UsageError
    from affinity.render import page, svg, terminal

    if output is not None and not output.endswith((".svg", ".html")):
        raise UsageError(f"-o {output}: expected a name that ends in .svg or .html")
    if measured is not None and not (output or "").endswith(".html"):
        raise UsageError("--bench is drawn on a page: give -o FILE.html too")
    grids = None if measured is None else _measurement(measured, host)
    found = drawn(host, policy=policy, planned=planned or policy is not None, ps=ps, all_users=all_users)
    if output is None:
        print(terminal.drawing(found))
        _output.lines("note", found.notes)
    else:
        write(output, svg.document(found) if output.endswith(".svg") else page.machine(found, grids))


def drawn(
    host: Host, *, policy: str | None = None, planned: bool = False, ps: bool = False, all_users: bool = False,
    title: str = "",
) -> Picture:  # fmt: skip
    """Return the picture of a machine. Raise ForeignHostError if processes of another machine are asked for."""
    import attrs

    from affinity.api import make_plan
    from affinity.observe import observe
    from affinity.plugins import Plugins
    from affinity.render import serialize
    from affinity.render.picture import picture

    plugins, settings = Plugins(), _validate.settings(policy)
    settings = attrs.evolve(settings, required=False)  # an impossible plan is drawn, not raised
    mode = _validate.mode(None, host)
    observation = observe(plugins, gpu="all", launch_mode=mode, settings=settings, host=host)
    launch = observation.launch
    workers = (attrs.evolve(observation, launch=attrs.evolve(launch, gpus=(gpu,))) for gpu in launch.gpus)
    plans = [serialize.plan(make_plan(worker, plugins)) for worker in workers] if planned else []
    processes: list[Shape] = []
    notes: list[str] = []
    if ps:
        from affinity.report.processes import GpuProcesses

        _require_this_machine(host)
        reader = GpuProcesses.of(host, settings)
        uses, notes = reader.uses()
        rows = reader.rows(uses, user=None if all_users else os.geteuid())
        processes = [serialize.process(row) for row in rows]
        others = len({use.pid for use in uses} - {row.pid for row in rows})
        if others:
            notes.append(f"{count_of(others, 'process')} of other users left out: --all-users draws them")
        elif not rows:
            notes.append("no process uses a GPU here")
        notes = [*reader.notes, *notes]
    return picture(serialize.machine(host, launch), plans, processes, title=title, notes=notes)


def _measurement(path: str, host: Host) -> Shape:
    """Return what `affinity bench --json` wrote. Raise UsageError if it is something else, or of other nodes."""
    import json

    from affinity.errors import UsageError
    from affinity.render.serialize import VERSION

    expected = "expected what `affinity bench --json` printed"
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except OSError as refused:
        raise UsageError(f"--bench {path}: {refused.strerror}; {expected}") from refused
    except ValueError as malformed:
        raise UsageError(f"--bench {path}: {malformed}; {expected}") from malformed
    if not isinstance(found, dict) or found.get("version") != VERSION or "grids" not in found:
        raise UsageError(f"--bench {path}: no grids of version {VERSION} in it; {expected}, without --command")
    missing = [node for node in found["nodes"] if node not in host.topology.by_id]
    if missing:
        raise UsageError(f"--bench {path}: node {missing[0]} in it is not on this machine: it was measured on another")
    return found


def _require_this_machine(host: Host) -> None:
    from affinity.errors import ForeignHostError

    if host.is_foreign:
        raise ForeignHostError(
            f"--ps shows processes of this machine, and another is given ({host.topology.detail}): leave out --ps, or "
            "the option that names the machine"
        )


def write(path: str, text: str) -> None:
    """Write a file and print its name. Raise UsageError if it cannot be written."""
    from affinity.errors import UsageError

    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as refused:
        raise UsageError(f"-o {path}: {refused.strerror}; name a file in a writable directory") from refused
    print(f"wrote {path}", file=sys.stderr)
