"""One states for no launch mode that it serves it, the other in words of its own."""

from __future__ import annotations

from affinity.strategies import AffinityStrategy, Observation, Support


class Strategy(AffinityStrategy):
    def supports(self, observation: Observation) -> Support:
        return Support.yes("for what, though?")


class Words(Strategy):
    launch_modes = {"spawn"}  # type: ignore[assignment]  # noqa: RUF012
