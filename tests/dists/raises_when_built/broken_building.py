"""Its constructor fails."""

from __future__ import annotations

from affinity import Host
from affinity.launchers import Launch
from affinity.strategies import RUNNING, AffinityStrategy, Support


class Strategy(AffinityStrategy):
    launch_modes = RUNNING

    def supports(self, launch: Launch, host: Host) -> Support:
        return Support.yes("never asked")

    def __init__(self) -> None:
        raise ConnectionError("the licence server does not answer")
