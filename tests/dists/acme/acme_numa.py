"""A strategy, a policy and a device provider, each with a variable of its own."""

from __future__ import annotations

import attrs

from affinity import CpuSet, Host, Settings
from affinity.devices import DeviceError, DeviceProvider, Gpu, Option
from affinity.policies import Observation, Placement, PlacementPolicy, place_on_nodes
from affinity.strategies import RUNNING, AffinityStrategy, Support

DEPTH = Option("AFFINITY_ACME_NUMA_DEPTH", int, "a number", "levels of the tree that are walked", 3)
SPARE = Option("AFFINITY_ACME_NUMA_SPARE", CpuSet.parse, "a CPU list", "CPUs that no worker gets", CpuSet())
SOCKET = Option("AFFINITY_ACME_NUMA_SOCKET", str, "a path", "socket of the daemon that lists the GPUs", "/run/acme")


class Strategy(AffinityStrategy):
    launch_modes = RUNNING
    options = (DEPTH,)

    def supports(self, observation: Observation) -> Support:
        return Support.yes(f"depth {observation.settings.option(DEPTH)}")


class Policy(PlacementPolicy):
    options = (SPARE,)

    def place(self, observation: Observation) -> Placement:
        placement = place_on_nodes(observation.launch.gpu_nodes, observation)
        assert placement.cpus is not None
        return attrs.evolve(placement, cpus=placement.cpus - observation.settings.option(SPARE))


class Provider(DeviceProvider):
    options = (SOCKET,)

    def supports(self, host: Host) -> Support:
        return Support.yes()

    def devices(self, host: Host, settings: Settings) -> tuple[Gpu, ...]:
        raise DeviceError(f"no daemon at {settings.option(SOCKET)}: start acmed")
