"""It forgot `supports`."""

from __future__ import annotations

from affinity import RUNNING, AffinityStrategy


class Strategy(AffinityStrategy):
    launch_modes = RUNNING
