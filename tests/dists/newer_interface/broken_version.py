"""Written for an interface that is not here yet."""

from __future__ import annotations

from affinity.strategies import RUNNING, AffinityStrategy, Observation, Support


class Strategy(AffinityStrategy):
    launch_modes = RUNNING

    def supports(self, observation: Observation) -> Support:
        return Support.yes("never asked")

    interface_version = 99


class Words(Strategy):
    interface_version = "1.0"  # type: ignore[assignment]
