"""`affinity explain`: show which strategy this launch gets, rule by rule, and what decided each setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from affinity.cli import _options, _output, _validate

if TYPE_CHECKING:
    from affinity.api import Plan
    from affinity.collisions import Found
    from affinity.devices.provider import DeviceProvider
    from affinity.host import Host
    from affinity.plugins import Plugins
    from affinity.policies.policy import PlacementPolicy
    from affinity.settings import Settings
    from affinity.strategies.strategy import AffinityStrategy
    from affinity.variables import Option


@click.command()
@_options.gpu
@_options.node
@_options.overrides
@_options.launch_mode
@_options.machine
@_options.as_json
def command(
    *, gpu: str | None, node: int | None, settings: Settings, launch_mode: str | None, host: Host, as_json: bool
) -> None:
    """Show the rule table with the verdict of each rule for this launch, and which variable decided each setting.

    Switches of engines and launchers that change a binding are listed if this environment shows them.
    """
    from affinity.api import make_plan
    from affinity.collisions import find
    from affinity.observe import observe
    from affinity.plugins import Plugins
    from affinity.render import serialize
    from affinity.variables import V2, VARIABLES

    _validate.one_place(gpu, node)
    plugins, mode = Plugins(), _validate.mode(launch_mode, host)
    planned = make_plan(observe(plugins, gpu=gpu, node=node, launch_mode=mode, settings=settings, host=host), plugins)
    names = {
        "strategies": plugins.strategies.names(),
        "policy": plugins.policies.names(),
        "devices": plugins.devices.names(),
    }
    decided = [serialize.setting(v, settings, names.get(v.field, ())) for v in (*VARIABLES, V2)]
    decided += [serialize.option(o, settings) for o in _options_used(planned, plugins)]
    collisions = [] if host.is_foreign else [*find(host.kernel.environ)]
    if as_json:
        _output.json(serialize.explanation(planned, decided, collisions))
    else:
        _print(planned, decided, collisions)


def _options_used(planned: Plan, plugins: Plugins) -> list[Option[Any]]:
    """Return the variables of the plugins that this plan uses, each once."""
    named = planned.observation.settings.devices
    providers = [p.name for p in plugins.devices.list() if not p.error and (not named or p.name in named)]
    strategies = (planned.selection.strategy, *planned.selection.fallbacks)
    used: list[PlacementPolicy | AffinityStrategy | DeviceProvider] = [
        plugins.policies.get(planned.observation.settings.policy),
        *(plugins.strategies.get(name) for name in strategies),
        *(plugins.devices.get(name) for name in providers),
    ]
    return list({option.name: option for plugin in used for option in plugin.options}.values())


def _print(planned: Plan, decided: list[dict[str, object]], collisions: Sequence[Found]) -> None:
    launch, selection = planned.launch, planned.selection
    _output.table(
        "Settings",
        ("variable", "meaning", "value", "decided by", "accepted"),
        [
            (
                d["variable"],
                d["meaning"],
                d.get("error") or d["text"] or _value(d["value"]),
                d["decided_by"] or "default",
                d["accepted"],
            )
            for d in decided
        ],
        optional=("accepted", "meaning"),
    )
    _output.line(f"launch mode {launch.mode.value}: {launch.reason or 'detected'}")
    for gpu in launch.gpus:
        _output.line(f"GPU {gpu}: node {'unknown' if gpu.node is None else gpu.node} ({gpu.node_reason})")
    if launch.nodes is not None:
        _output.line(f"node {launch.nodes}: given by the caller")
    _output.lines("note", launch.notes)
    where = f"{planned.placement.summary} ({planned.placement.reason})" if planned.placement else planned.problem
    if planned.placement and selection.strategy == "noop":
        where += "; not put in force"
    _output.line(f"placement by policy {planned.observation.settings.policy}: {where}")
    print()
    _output.table(
        "Rules, in order; the first that applies decides",
        ("rule", "condition", "applies", "verdict"),
        [(v.rule, v.condition, v.applies, v.reason) for v in selection.verdicts],
        optional=("condition",),
    )
    fallbacks = f" (then {', '.join(selection.fallbacks)})" if selection.fallbacks else ""
    _output.line(f"strategy {selection.strategy}{fallbacks}: {selection.reason}")
    if collisions:
        print()
        _output.table(
            "Set here, and changes a binding",
            ("variable", "of", "effect", "use"),
            [(variable, row.owner, row.effect, row.use) for row, variable in collisions],
        )


def _value(value: object) -> object:
    """Return the value for a table: "not set" if it is null or empty."""
    if value is None or value == []:
        return "not set"
    return ", ".join(map(str, value)) if isinstance(value, list) else value
