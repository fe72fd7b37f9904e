"""A strategy that states it bound and did not; one whose answer is no answer; one that falls over when asked."""

from __future__ import annotations

from collections.abc import Sequence

from affinity import Host, LaunchMode
from affinity.policies import Placement
from affinity.strategies import AffinityStrategy, Observation, Outcome, Support


class Strategy(AffinityStrategy):
    launch_modes = frozenset(LaunchMode)

    def supports(self, observation: Observation) -> Support:
        return Support.yes("trust me")

    def command(self, argv: Sequence[str], placement: Placement, host: Host) -> Sequence[str]:
        return argv

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        return Outcome(bound=1000)


class Misanswers(Strategy):
    def supports(self, observation: Observation) -> Support:
        return True  # type: ignore[return-value]


class Stumbles(Strategy):
    def supports(self, observation: Observation) -> Support:
        raise KeyError("gpu")
