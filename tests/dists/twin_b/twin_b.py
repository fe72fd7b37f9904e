"""One of two with the same name."""

from __future__ import annotations

from affinity import Host
from affinity.launchers import Launch
from affinity.strategies import RUNNING, AffinityStrategy, Support


class Strategy(AffinityStrategy):
    launch_modes = RUNNING

    def supports(self, launch: Launch, host: Host) -> Support:
        return Support.yes("the second of the twins")
