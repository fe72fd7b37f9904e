"""The four entry-point groups, read once for each public call."""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import cached_property
from typing import TYPE_CHECKING

import attrs

from affinity.errors import PluginError
from affinity.launchers.launch import LaunchMode
from affinity.policies.policy import PlacementPolicy
from affinity.registry import InstalledPlugin, Registry, installed, option_prefix
from affinity.strategies.strategy import AffinityStrategy
from affinity.variables import suggestion

if TYPE_CHECKING:
    from affinity.devices.provider import DeviceProvider
    from affinity.launchers.launcher import Launcher
    from affinity.settings import Settings


@attrs.define(eq=False)
class Plugins:
    """The installed plugins of the four groups, read when first used.

    In a class with slots, attrs caches these properties without the lock of functools.cached_property. On Python 3.11
    all instances share that lock, and a fork would inherit it held.
    """

    @cached_property
    def _found(self) -> list[InstalledPlugin]:
        return installed()

    def require_named(self, settings: Settings) -> None:
        """Raise PluginError if the settings name a plugin that is not installed, whether this worker needs it or not.

        A misspelled name would otherwise be noticed on the first machine with GPUs. Of several names one may be
        missing, unless it is nearly that of an installed plugin.
        """
        for registry, field in ((self.strategies, "strategies"), (self.policies, "policy"), (self.devices, "devices")):
            value = getattr(settings, field)
            named = (value,) if isinstance(value, str) else value
            for name in named:
                if len(named) > 1 and (name in registry.names() or not suggestion(name, registry.names())):
                    continue
                try:
                    registry.require(name)
                except PluginError as unknown:
                    origin = settings.decided_by.get(field, f"Settings({field}={value!r})")
                    raise PluginError(f"{origin}: {unknown}") from None

    def unread(self, variables: Iterable[str]) -> dict[str, list[str]]:
        """Return the variables that no plugin declares, each with the options of the plugins whose prefix it has.

        Only plugins with such a prefix are loaded. One that cannot be may declare any name with it.
        """
        declared = {name: self._options_of_prefix(name) for name in variables}
        return {name: options for name, options in declared.items() if options is not None and name not in options}

    def _options_of_prefix(self, variable: str) -> list[str] | None:
        """Return the options of the plugins whose prefix a variable has, None if one of them cannot be loaded."""
        options: list[str] = []
        for registry in (self.strategies, self.policies, self.devices):
            for plugin in registry.names():
                if variable.startswith(option_prefix(plugin)):
                    try:
                        options += [option.name for option in registry.get(plugin).options]
                    except PluginError:
                        return None
        return options

    @cached_property
    def strategies(self) -> Registry[AffinityStrategy]:
        return Registry("affinity.strategies", AffinityStrategy, self._found, _modes_problem)  # type: ignore[type-abstract]

    @cached_property
    def policies(self) -> Registry[PlacementPolicy]:
        return Registry("affinity.policies", PlacementPolicy, self._found)  # type: ignore[type-abstract]

    @cached_property
    def devices(self) -> Registry[DeviceProvider]:
        from affinity.devices.provider import DeviceProvider

        return Registry("affinity.devices", DeviceProvider, self._found)  # type: ignore[type-abstract]

    @cached_property
    def launchers(self) -> Registry[Launcher]:
        from affinity.launchers.launcher import Launcher

        return Registry("affinity.launchers", Launcher, self._found, _mode_problem)  # type: ignore[type-abstract]


def _modes_problem(strategy: type[AffinityStrategy]) -> str:
    modes = getattr(strategy, "launch_modes", None)
    if isinstance(modes, Set) and modes and all(isinstance(mode, LaunchMode) for mode in modes):
        return ""
    return f"its launch_modes is {modes!r}, expected a frozenset of LaunchMode"


def _mode_problem(launcher: type[Launcher]) -> str:
    if not isinstance(launcher.mode, LaunchMode):
        return f"its mode is {launcher.mode!r}, expected a LaunchMode"
    if not isinstance(launcher.distance, int):
        return f"its distance is {launcher.distance!r}, expected a whole number"
    return ""
