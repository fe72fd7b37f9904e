"""One says for no launch mode that it serves it, the other in words of its own."""

from __future__ import annotations

from affinity import Host
from affinity.launchers import Launch
from affinity.strategies import AffinityStrategy, Support


class Strategy(AffinityStrategy):
    def supports(self, launch: Launch, host: Host) -> Support:
        return Support.yes("for what, though?")


class Words(Strategy):
    launch_modes = {"spawn"}  # type: ignore[assignment]  # noqa: RUF012
