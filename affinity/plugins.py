"""The three entry-point groups, read once for each public call."""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import entry_points
from typing import TypeVar

from affinity.host.devices import DeviceProvider
from affinity.policy import PlacementPolicy
from affinity.registry import Registry
from affinity.strategy import AffinityStrategy

P = TypeVar("P")


class Plugins:
    """What is installed at the moment it is made."""

    def __init__(self) -> None:
        self._found = entry_points()

    @cached_property
    def strategies(self) -> Registry[AffinityStrategy]:
        return self._group("affinity.strategies", AffinityStrategy)  # type: ignore[type-abstract]

    @cached_property
    def policies(self) -> Registry[PlacementPolicy]:
        return self._group("affinity.policies", PlacementPolicy)  # type: ignore[type-abstract]

    @cached_property
    def devices(self) -> Registry[DeviceProvider]:
        return self._group("affinity.devices", DeviceProvider)  # type: ignore[type-abstract]

    def _group(self, group: str, kind: type[P]) -> Registry[P]:
        return Registry(group, kind, self._found.select(group=group))
