"""`affinity explain`: which strategy this launch gets, rule by rule, and what decided each setting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from affinity.cli import _options, _output, _validate

if TYPE_CHECKING:
    from affinity.api import Plan
    from affinity.host import Host


@click.command()
@_options.gpu
@_options.node
@_options.policy
@_options.launch_mode
@_options.machine
@_options.as_json
def command(
    *, gpu: str | None, node: int | None, policy: str | None, launch_mode: str | None, host: Host, as_json: bool
) -> None:
    """The rule table with each line's verdict for this launch, and which variable decided each setting."""
    from affinity.api import plan
    from affinity.render import serialize
    from affinity.settings import ALIASES, VARIABLES

    _validate.exactly_one_place(gpu, node)
    _validate.node(host, node)
    settings = _validate.settings(policy)
    planned = plan(gpu=gpu, node=node, launch_mode=_validate.mode(launch_mode, host), settings=settings, host=host)
    own = {v.field for v in VARIABLES}
    variables = (*VARIABLES, *(v for v in ALIASES if v.field not in own))
    decided = [serialize.setting(v, settings) for v in variables]
    if as_json:
        _output.json(serialize.explanation(planned, decided))
    else:
        _print(planned, decided)


def _print(planned: Plan, decided: list[dict[str, object]]) -> None:
    launch, selection = planned.launch, planned.selection
    _output.table(
        "Settings",
        ("variable", "what it sets", "value", "decided by"),
        [(d["variable"], d["meaning"], _value(d["value"]), d["decided_by"] or "default") for d in decided],
    )
    print(f"launch mode {launch.mode.value}: {launch.reason or 'detected'}")
    for gpu in launch.gpus:
        print(f"GPU {gpu}: node {'unknown' if gpu.node is None else gpu.node} ({gpu.node_reason})")
    if launch.nodes is not None:
        print(f"node {launch.nodes}: named by the caller")
    _output.lines("note", launch.notes)
    where = f"{planned.placement.summary} ({planned.placement.reason})" if planned.placement else planned.problem
    print(f"placement by policy {planned.observation.settings.policy}: {where}\n")
    _output.table(
        "Rules, from the top; the first that applies decides",
        ("rule", "condition", "applies", "verdict"),
        [(v.rule, v.condition, v.applies, v.reason) for v in selection.verdicts],
    )
    fallbacks = f" (then {', '.join(selection.fallbacks)})" if selection.fallbacks else ""
    print(f"strategy {selection.strategy}{fallbacks}: {selection.reason}")


def _value(value: object) -> object:
    """For people: nothing was named where the value is null or empty."""
    if value is None or value == []:
        return "not set"
    return ", ".join(map(str, value)) if isinstance(value, list) else value
