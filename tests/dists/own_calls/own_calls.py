"""Strategies that make calls of their own, which are refused."""

from __future__ import annotations

import errno
import os

import attrs

from affinity import BindError, LaunchMode
from affinity.kernel import MemoryMode
from affinity.policies import Placement
from affinity.strategies import (
    RUNNING,
    AffinityStrategy,
    Observation,
    Outcome,
    Support,
    bind_from_outside,
    bind_process,
)


class Device(AffinityStrategy):
    """Binds through a device, which it may not open."""

    launch_modes = RUNNING | {LaunchMode.ATTACH}

    def supports(self, observation: Observation) -> Support:
        return Support.yes("/dev/acme")

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), "/dev/acme")


class Priority(AffinityStrategy):
    """Sets an I/O priority too, which is refused without failing the bind."""

    launch_modes = RUNNING | {LaunchMode.ATTACH}

    def supports(self, observation: Observation) -> Support:
        return Support.yes("system calls")

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        if observation.launch.mode is LaunchMode.ATTACH:
            outcome = bind_from_outside(placement, observation)
        else:
            outcome = bind_process(placement, observation.host)
        refused = OSError(errno.EPERM, os.strerror(errno.EPERM), "ioprio_set")
        return attrs.evolve(outcome, errors=(*outcome.errors, refused))


class Variables(AffinityStrategy):
    """Sets three variables of the process that it binds; then binds it, with memory policy `preferred` alone."""

    launch_modes = RUNNING

    def supports(self, observation: Observation) -> Support:
        return Support.yes("system calls")

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        kernel = observation.host.kernel
        kernel.environ.update(ACME_NEW="1", ACME_SET="1", ACME_LATER="1")
        if placement.memory is not None and placement.memory.mode is MemoryMode.BIND:
            kernel.environ["ACME_REFUSED"] = "1"
            raise BindError("this is for preferred memory: AFFINITY_MEMORY=preferred")
        return bind_process(placement, observation.host)
