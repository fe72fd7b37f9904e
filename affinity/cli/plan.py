"""`affinity plan`: show the placement and the strategy of each GPU's worker, without changing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from affinity.cli import _options, _output, _validate

if TYPE_CHECKING:
    from affinity.api import Plan
    from affinity.host import Host
    from affinity.settings import Settings

COLUMNS = ("GPU", "address", "name", "node", "CPUs", "memory", "strategy", "reason")
OPTIONAL = ("reason", "name")


@click.command()
@_options.gpu
@_options.overrides
@_options.launch_mode
@_options.machine
@_options.as_json
def command(*, gpu: str | None, settings: Settings, launch_mode: str | None, host: Host, as_json: bool) -> None:
    """Show the placement and the strategy of each GPU's worker. Changes nothing.

    One row for each GPU given by --gpu, by default for each visible GPU. The default launch mode is the one detected
    for this process, and spawn for another machine.
    """
    from affinity.api import plan_each
    from affinity.render import serialize

    mode = _validate.mode(launch_mode, host)
    plans = plan_each(gpu=gpu or "all", launch_mode=mode, settings=settings, host=host)
    if as_json:
        _output.json([serialize.plan(p) for p in plans])
    elif not plans:
        nodes = sorted(host.topology.nodes_of(host.allowed_cpus))[:2]
        names = ",".join(map(str, nodes))
        example = f": AFFINITY_NODES={names} puts a placeholder GPU on each of these nodes" if nodes else ""
        _output.line(f"no GPU is visible, nothing to plan{example}")
    else:
        _output.table(
            f"Policy {plans[0].observation.settings.policy}, launch mode {plans[0].launch.mode.value}",
            COLUMNS,
            map(_row, plans),
            optional=OPTIONAL,
        )
        _output.lines("note", (note for p in plans for note in p.launch.notes))


def _row(planned: Plan) -> tuple[object, ...]:
    """Return the cells of a GPU's worker; without CPUs and memory if they will not be put in force."""
    gpu, selection = planned.launch.gpus[0], planned.selection
    applied = planned.placement if selection.strategy != "noop" else None
    return (
        planned.launch.reference(gpu),
        gpu,
        gpu.model,
        gpu.node,
        applied.cpus if applied else None,
        applied.memory if applied else None,
        selection.strategy,
        planned.problem or selection.reason,
    )
