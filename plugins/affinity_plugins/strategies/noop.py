"""`noop`: change nothing. A real choice, with a reason: one node, no GPU, switched off, bound from outside."""

from __future__ import annotations

from affinity import LaunchMode
from affinity.strategies import AffinityStrategy, Observation, Support


class Noop(AffinityStrategy):
    """Leaves the worker as it is, in every launch mode."""

    launch_modes = frozenset(LaunchMode)

    def supports(self, observation: Observation) -> Support:
        return Support.yes("changes nothing")
