"""`libnuma`: the process binds itself, for Ray and every launcher that has started it already.

CPU mask on every thread, memory policy through libnuma, pages touched before moved to the node.
"""

from __future__ import annotations

from affinity.policies import Placement
from affinity.strategies import RUNNING, AffinityStrategy, Observation, Outcome, Support, bind_process


class Libnuma(AffinityStrategy):
    """Binds the running process as a whole."""

    launch_modes = RUNNING

    def supports(self, observation: Observation) -> Support:
        if observation.host.is_foreign:
            return Support.yes("libnuma, on that machine")
        missing = observation.host.kernel.libnuma_error()
        return Support.no(missing) if missing else Support.yes("libnuma")

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        return bind_process(placement, observation.host, set_memory=observation.host.kernel.set_mempolicy_libnuma)
