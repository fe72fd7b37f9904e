"""`AffinityStrategy`: HOW a placement is put in force. The class docstring is the guide for authors of strategies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import attrs

from affinity.launchers.launch import LaunchMode
from affinity.observation import Observation
from affinity.policies.placement import Placement
from affinity.support import Support
from affinity.variables import Option


@attrs.frozen
class WorkerStart:
    """The start of a worker process.

    prefix: a program and its options, put before the worker's command. around: returns a context manager that the
    starting thread enters for the one system call that starts the worker. binds_itself: the worker calls
    `affinity.bind()` before its target runs, because nothing of the starting thread reaches it.
    """

    prefix: tuple[str, ...] = ()
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    binds_itself: bool = False


@attrs.frozen
class Outcome:
    """Facts about a bind that the kernel does not show afterwards.

    bound: number of threads that got the mask. skipped: number of threads with a mask of their own, left unchanged.
    resident_before: bytes of pages by node before pages were moved, None if none were. unmoved: bytes that could not be
    moved. seconds: duration of the move. errors: calls that failed without failing the bind.
    """

    bound: int = 0
    skipped: int = 0
    resident_before: Mapping[int, int] | None = None
    unmoved: int = 0
    seconds: float = 0.0
    errors: tuple[OSError, ...] = ()


class AffinityStrategy(ABC):
    """Base class of entry-point group `affinity.strategies`: a way to put a placement in force.

    Write a class with a no-argument constructor, declare the launch modes that it serves, and override these methods
    (docs/reference/plugins.md lists what may change between versions of this interface):

    `supports(observation)`
        Return whether the strategy can act for this launch on this host. Use the observation (the PATH of
        `host.kernel.environ`, an option of the settings) and not the process that asks, which may plan for another
        machine; such a host `is_foreign` and has no kernel. Do not import or run anything expensive, and do not raise.
        The operator sees the reason of a "no": name what to install or set.
    `start(placement, observation)`
        Called in the parent, before a worker is started by `observation.launch.start_method` (modes `spawn` and
        `command`). Return the start as a value, and do not change this process.
    `bind(placement, observation)`
        Called in the worker's own process, before it allocates its data (every mode but `command`). An undo restores
        masks, the memory policy and variables set in `host.kernel.environ`: leave nothing else changed.

    If the placement cannot be put in force, raise OSError (from a system call) or BindError (otherwise, with a
    remedy). The framework records the error and tries a weaker placement or another strategy.
    Use `observation.host.kernel` for all contact with the system; `affinity.testing.FakeHost` simulates it.
    Do not verify the result: the framework reads back from the kernel what is in force.
    """

    #: Version of this interface that the class is written for; the registry refuses a newer one.
    interface_version: ClassVar[int] = 1

    launch_modes: ClassVar[frozenset[LaunchMode]]

    #: Variables of the plugin, `AFFINITY_<PLUGIN>_<OPTION>`; `observation.settings.option(…)` reads one.
    options: ClassVar[tuple[Option[Any], ...]] = ()

    @abstractmethod
    def supports(self, observation: Observation) -> Support:
        """Return whether this strategy can act for this launch on this host, with the reason."""

    def start(self, placement: Placement, observation: Observation) -> WorkerStart:
        """Return how to start a worker by `observation.launch.start_method`. Default: an unchanged start.

        A start method is spawn, fork or forkserver, another library's own (loky), or exec (`affinity run`). Called once
        for several workers of one placement; the returned value may be used from several threads.
        """
        return WorkerStart()

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        """Put the placement in force for the calling process. Default: change nothing."""
        return Outcome()
