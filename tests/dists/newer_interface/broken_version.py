"""Written for an interface that is not here yet."""

from __future__ import annotations

from affinity import Host
from affinity.launchers import Launch
from affinity.strategies import RUNNING, AffinityStrategy, Support


class Strategy(AffinityStrategy):
    launch_modes = RUNNING

    def supports(self, launch: Launch, host: Host) -> Support:
        return Support.yes("never asked")

    interface_version = 99


class Words(Strategy):
    interface_version = "1.0"  # type: ignore[assignment]
