"""A variable that does not begin with the plugin's name, and options that are none."""

from __future__ import annotations

from typing import Any, ClassVar

from affinity.strategies import RUNNING, AffinityStrategy, Observation, Option, Support


class WrongPrefix(AffinityStrategy):
    launch_modes = RUNNING
    options = (Option("AFFINITY_DEPTH", int, "a number", "how deep", 1),)

    def supports(self, observation: Observation) -> Support:
        return Support.yes()


class NoOptions(WrongPrefix):
    options: ClassVar[Any] = ["AFFINITY_NO_OPTIONS_DEPTH"]
