"""`external`: another process that runs is bound from outside, every thread of it; its pages are moved to the node.

Its memory policy is its own: a thread that has set none takes new pages next to its CPUs.
"""

from __future__ import annotations

from affinity import LaunchMode
from affinity.policies import Placement
from affinity.strategies import AffinityStrategy, Observation, Outcome, Support, bind_from_outside


class External(AffinityStrategy):
    """Strategy of `affinity attach`."""

    launch_modes = frozenset({LaunchMode.ATTACH})

    def supports(self, observation: Observation) -> Support:
        return Support.yes("CPU masks and pages of another process")

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        return bind_from_outside(placement, observation)
