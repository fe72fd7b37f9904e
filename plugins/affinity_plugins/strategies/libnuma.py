"""`libnuma`: a running process binds itself, under Ray and every other launcher.

It sets the CPU mask of every thread and the memory policy through libnuma, and moves pages touched before to the node.
"""

from __future__ import annotations

from affinity.policies import Placement
from affinity.strategies import RUNNING, AffinityStrategy, Observation, Outcome, Support, bind_process


class Libnuma(AffinityStrategy):
    """Strategy that binds all threads of the running process."""

    launch_modes = RUNNING

    def supports(self, observation: Observation) -> Support:
        if observation.host.is_foreign:
            return Support.yes("libnuma, on that machine")
        missing = observation.host.kernel.libnuma_error()
        return Support.no(missing) if missing else Support.yes("libnuma")

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        return bind_process(placement, observation.host, set_memory=observation.host.kernel.set_mempolicy_libnuma)
