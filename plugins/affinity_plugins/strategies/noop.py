"""`noop`: change nothing. Chosen with a reason: one node, no GPU, switched off, or bound from outside."""

from __future__ import annotations

from affinity import LaunchMode
from affinity.strategies import AffinityStrategy, Observation, Support


class Noop(AffinityStrategy):
    """Strategy that leaves the worker unchanged, in every launch mode."""

    launch_modes = frozenset(LaunchMode)

    def supports(self, observation: Observation) -> Support:
        return Support.yes("changes nothing")
