"""The three entry-point groups, read once for each public call."""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import cached_property
from typing import TYPE_CHECKING

import attrs

from affinity.launchers.launch import LaunchMode
from affinity.policies.policy import PlacementPolicy
from affinity.registry import InstalledPlugin, Registry, installed, option_prefix
from affinity.strategies.strategy import AffinityStrategy

if TYPE_CHECKING:
    from affinity.devices.provider import DeviceProvider


@attrs.define(eq=False)
class Plugins:
    """What is installed at the moment it is first asked for.

    In a class with slots, attrs caches these properties without the lock that functools.cached_property of Python 3.11
    holds for all instances at once, and that a fork in the middle would inherit.
    """

    @cached_property
    def _found(self) -> list[InstalledPlugin]:
        return installed()

    def without_reader(self, variables: Iterable[str]) -> list[str]:
        """Return the variables whose names do not begin as those of an installed plugin; loads none."""
        prefixes = tuple(option_prefix(plugin.point.name) for plugin in self._found)
        return [name for name in variables if not name.startswith(prefixes)]

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


def _modes_problem(strategy: type[AffinityStrategy]) -> str:
    modes = getattr(strategy, "launch_modes", None)
    if isinstance(modes, Set) and modes and all(isinstance(mode, LaunchMode) for mode in modes):
        return ""
    return f"its launch_modes is {modes!r}, expected a frozenset of LaunchMode"
