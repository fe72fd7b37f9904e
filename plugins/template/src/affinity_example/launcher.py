"""A launcher that gives each worker a rank in its environment."""

from __future__ import annotations

from affinity.launchers import EnvironmentLauncher


class AffinityExampleLauncher(EnvironmentLauncher):
    """Workers of a pool that numbers those of one machine; worker 3 has the fourth visible GPU."""

    interface_version = 1
    markers, rank, size = ("POOL_ID",), "POOL_LOCAL_RANK", "POOL_LOCAL_SIZE"
