"""Its constructor fails."""

from __future__ import annotations

from affinity.strategies import RUNNING, AffinityStrategy, Observation, Support


class Strategy(AffinityStrategy):
    launch_modes = RUNNING

    def supports(self, observation: Observation) -> Support:
        return Support.yes("never asked")

    def __init__(self) -> None:
        raise ConnectionError("the licence server does not answer")
