"""`affinity strategies`: list the plugins of the four groups, broken ones with their error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import click

from affinity.cli import _options, _output, _validate

if TYPE_CHECKING:
    from affinity.devices.provider import DeviceProvider
    from affinity.host import Host
    from affinity.observation import Observation
    from affinity.plugins import Plugins
    from affinity.policies.policy import PlacementPolicy
    from affinity.strategies.strategy import AffinityStrategy
    from affinity.support import Support

#: The columns of each group. A policy and a launcher can act anywhere: their reason is that of a broken one.
_COLUMNS = {
    "strategies": ("launch modes", "can act here", "reason"),
    "policies": ("reason",),
    "devices": ("can act here", "reason"),
    "launchers": ("launch modes", "distance", "reason"),
}


@click.command()
@_options.machine
@_options.as_json
def command(*, host: Host, as_json: bool) -> None:
    """List each strategy, policy, device provider and launcher: its distribution, and whether it can act here.

    A broken plugin is listed with its error. It is an error for a worker only if that worker's settings name it.
    """
    from affinity.observe import observe
    from affinity.plugins import Plugins

    plugins = Plugins()
    observation = observe(plugins, gpu="all", settings=_validate.settings(), host=host)
    groups = _groups(observation, plugins)
    if as_json:
        from affinity.render import serialize

        return _output.json({"version": serialize.VERSION, **groups})
    for group, rows in groups.items():
        columns = ("name", "distribution", "version", *_COLUMNS[group])
        keys = [column.removesuffix(" here").replace(" ", "_") for column in columns]
        _output.table(
            group.capitalize(),
            columns,
            [[_cell(p[key]) for key in keys] for p in rows],
            optional=("version", "distribution", "reason"),
        )
    options = [(p["name"], option) for rows in groups.values() for p in rows for option in _options_of(p)]
    if options:
        _output.table(
            "Variables of plugins",
            ("variable", "plugin", "accepted", "meaning", "value"),
            [(o["variable"], name, o["accepted"], o["meaning"], o["error"] or o["value"]) for name, o in options],
        )
    return None


def _groups(observation: Observation, plugins: Plugins) -> dict[str, list[dict[str, object]]]:
    from affinity.render import serialize
    from affinity.support import call_supports

    def options(plugin: AffinityStrategy | PlacementPolicy | DeviceProvider) -> list[dict[str, object]]:
        return [serialize.option(option, observation.settings) for option in plugin.options]

    strategies = []
    for info in plugins.strategies.list():
        if info.error:
            strategies.append(serialize.plugin(info, launch_modes=[]))
            continue
        strategy = plugins.strategies.get(info.name)
        modes = sorted(mode.value for mode in strategy.launch_modes)
        support = _support(strategy, observation)
        strategies.append(serialize.plugin(info, options=options(strategy), launch_modes=modes, support=support))
    policies = [
        serialize.plugin(info, options=[] if info.error else options(plugins.policies.get(info.name)))
        for info in plugins.policies.list()
    ]
    devices = []
    for info in plugins.devices.list():
        if info.error:
            devices.append(serialize.plugin(info))
            continue
        provider = plugins.devices.get(info.name)
        support = call_supports(provider.supports, observation.host)
        devices.append(serialize.plugin(info, options=options(provider), support=support))
    return {"strategies": strategies, "policies": policies, "devices": devices, "launchers": _launchers(plugins)}


def _launchers(plugins: Plugins) -> list[dict[str, object]]:
    """Return a row for each launcher, without a mode if it cannot be loaded."""
    from affinity.render import serialize

    rows: list[dict[str, object]] = []
    for info in plugins.launchers.list():
        launcher = None if info.error else plugins.launchers.get(info.name)
        modes = [] if launcher is None else [launcher.mode.value]
        row = serialize.plugin(info, launch_modes=modes)
        rows.append({**row, "distance": launcher.distance if launcher is not None else None})
    return rows


def _support(strategy: AffinityStrategy, observation: Observation) -> Support:
    """Return whether the strategy supports this process's launch mode, or else the first mode that it serves."""
    from affinity.selection.rules import supports_launch

    launch = observation.launch
    if launch.mode not in strategy.launch_modes and strategy.launch_modes:
        launch = attrs.evolve(launch, mode=min(strategy.launch_modes, key=lambda m: m.value))
    return supports_launch(strategy, attrs.evolve(observation, launch=launch))


def _options_of(plugin: dict[str, object]) -> list[dict[str, object]]:
    options = plugin["options"]
    assert isinstance(options, list)
    return options


def _cell(value: object) -> object:
    return ", ".join(value) if isinstance(value, list) else value
