"""It forgot `supports`."""

from __future__ import annotations

from affinity.strategies import RUNNING, AffinityStrategy


class Strategy(AffinityStrategy):
    launch_modes = RUNNING
