"""`affinity plan`: where each GPU's worker would go, and by which strategy. Changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from affinity.cli import _options, _output, _validate

if TYPE_CHECKING:
    from affinity.host import Host


@click.command()
@_options.gpu
@_options.policy
@_options.launch_mode
@_options.machine
@_options.as_json
def command(*, gpu: str | None, policy: str | None, launch_mode: str | None, host: Host, as_json: bool) -> None:
    """Where each GPU's worker would go, and how it gets there. Changes nothing.

    One row a GPU: those that --gpu names, by default all that are visible. The launch mode is this process's own;
    for a machine that is not this one, spawn.
    """
    from affinity.api import plan_each
    from affinity.render import serialize

    mode = _validate.mode(launch_mode, host)
    plans = plan_each(gpu=gpu or "all", launch_mode=mode, settings=_validate.settings(policy), host=host)
    if as_json:
        _output.json([serialize.plan(p) for p in plans])
    elif not plans:
        print("no GPU is visible here: there is nothing to plan (AFFINITY_NODES=0,1 plans for two stand-ins)")
    else:
        rows = []
        for p in plans:
            cpus, memory = (p.placement.cpus, p.placement.memory) if p.placement else (None, None)
            found = p.launch.gpus[0]
            rows.append((found, found.node, cpus, memory, p.selection.strategy, p.problem or p.selection.reason))
        _output.table(
            f"Policy {plans[0].observation.settings.policy}, launch mode {plans[0].launch.mode.value}",
            ("GPU", "node", "CPUs", "memory", "strategy", "reason"),
            rows,
        )
        _output.lines("note", (note for p in plans for note in p.launch.notes))
