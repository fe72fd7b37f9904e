"""The three entry-point groups, read once for each public call."""

from __future__ import annotations

from collections.abc import Set
from functools import cached_property
from typing import TYPE_CHECKING

from affinity.launchers.launch import LaunchMode
from affinity.policies.policy import PlacementPolicy
from affinity.registry import InstalledPlugin, Registry, installed
from affinity.strategies.strategy import AffinityStrategy

if TYPE_CHECKING:
    from affinity.devices.provider import DeviceProvider


class Plugins:
    """What is installed at the moment it is first asked for."""

    @cached_property
    def _found(self) -> list[InstalledPlugin]:
        return installed()

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
