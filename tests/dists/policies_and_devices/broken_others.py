"""A policy that forgot `place`, and device providers that fail in the three ways there are."""

from __future__ import annotations

from typing import ClassVar

from affinity import Host, Settings
from affinity.devices import DeviceError, DeviceProvider, Gpu
from affinity.policies import PlacementPolicy
from affinity.strategies import Support


class Policy(PlacementPolicy):
    """Nothing."""


class Falls(DeviceProvider):
    def supports(self, host: Host) -> Support:
        return Support.yes()

    def devices(self, host: Host, settings: Settings) -> tuple[Gpu, ...]:
        raise IndexError("a mistake of its author")


class Refuses(Falls):
    drivers: ClassVar[frozenset[str]] = frozenset({"acme"})

    def devices(self, host: Host, settings: Settings) -> tuple[Gpu, ...]:
        raise DeviceError("acme-smi: no device; load the acme module")


class Stumbles(Falls):
    def supports(self, host: Host) -> Support:
        raise KeyError("PATH")
