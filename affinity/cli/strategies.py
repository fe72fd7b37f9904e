"""`affinity strategies`: every plugin of the three groups, broken ones with their error."""

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


@click.command()
@_options.machine
@_options.as_json
def command(*, host: Host, as_json: bool) -> None:
    """Each strategy, policy and device provider, whose it is, and whether it can act here.

    A broken plugin is shown with its error; it fails a worker only where that worker's settings name it.
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
        modes = ("launch modes",) if group == "strategies" else ()
        _output.table(
            group.capitalize(),
            ("name", "distribution", "version", *modes, "can act here", "why"),
            [
                (
                    p["name"],
                    p["distribution"],
                    p["version"],
                    *(_modes(p) if modes else ()),
                    p["can_act"],
                    p["reason"],
                )
                for p in rows
            ],
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
    return {"strategies": strategies, "policies": policies, "devices": devices}


def _support(strategy: AffinityStrategy, observation: Observation) -> Support:
    """Its answer for this process's launch, or, where it serves others only, for the first of those."""
    from affinity.selection.rules import supports_launch

    launch = observation.launch
    if launch.mode not in strategy.launch_modes and strategy.launch_modes:
        launch = attrs.evolve(launch, mode=min(strategy.launch_modes, key=lambda m: m.value))
    return supports_launch(strategy, attrs.evolve(observation, launch=launch))


def _options_of(plugin: dict[str, object]) -> list[dict[str, object]]:
    options = plugin["options"]
    assert isinstance(options, list)
    return options


def _modes(plugin: dict[str, object]) -> tuple[str]:
    modes = plugin["launch_modes"]
    assert isinstance(modes, list)
    return (", ".join(modes),)
