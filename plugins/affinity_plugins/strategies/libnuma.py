"""`libnuma`: the process binds itself, for Ray and every launcher that has started it already.

CPU mask on every thread, memory policy through libnuma, pages touched before moved to the node.
"""

from __future__ import annotations

from affinity import Host
from affinity.launchers import Launch
from affinity.policies import Placement
from affinity.strategies import RUNNING, AffinityStrategy, Outcome, Support, bind_process


class Libnuma(AffinityStrategy):
    """Binds the running process as a whole."""

    launch_modes = RUNNING

    def supports(self, launch: Launch, host: Host) -> Support:
        if host.is_foreign:
            return Support.yes("libnuma, on that machine")
        missing = host.kernel.libnuma_error()
        return Support.no(missing) if missing else Support.yes("libnuma")

    def bind(self, placement: Placement, host: Host) -> Outcome:
        return bind_process(placement, host, set_memory=host.kernel.set_mempolicy_libnuma)
