"""One of two with the same name."""

from __future__ import annotations

from affinity.strategies import RUNNING, AffinityStrategy, Observation, Support


class Strategy(AffinityStrategy):
    launch_modes = RUNNING

    def supports(self, observation: Observation) -> Support:
        return Support.yes("the second of the twins")
