"""`AffinityStrategy`: HOW a placement is put in force. This docstring and the class's are the author's guide."""

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
    """How one worker process is started.

    prefix: a program and its options, put before the worker's command. around: makes a context manager that the
    starting thread enters for the one system call that starts the worker.
    """

    prefix: tuple[str, ...] = ()
    around: Callable[[], AbstractContextManager[None]] = nullcontext


@attrs.frozen
class Outcome:
    """What a strategy reports beyond what the kernel shows.

    bound, skipped: threads given the mask, and threads left alone because their owner pinned them.
    resident_before: bytes of pages by node before pages were moved, None if none were. unmoved: bytes that could not be
    moved. seconds: the time the move took.
    errors: calls that failed without failing the bind.
    """

    bound: int = 0
    skipped: int = 0
    resident_before: Mapping[int, int] | None = None
    unmoved: int = 0
    seconds: float = 0.0
    errors: tuple[OSError, ...] = ()


class AffinityStrategy(ABC):
    """Entry point group `affinity.strategies`: one way to put a worker where it is placed.

    Write a class with a no-argument constructor, name the launch modes it serves, and override the moments at which
    it acts (docs/reference/plugins.md lists what may change between versions of this interface):

    `supports(observation)`
        Whether it can act for this launch on this host. Answered from files and PATH, without importing or running
        anything heavy, never raising. The reason of a "no" reaches the operator: name what to install or set.
    `start(placement, observation)`
        In the parent, before a worker is started by `observation.launch.start_method` (modes `spawn` and `command`).
        Return the start as a value; leave this process as it is.
    `bind(placement, observation)`
        In the worker's own process, before it builds anything (every mode but `command`).

    If the placement cannot be put in force, raise OSError (from a system call) or BindError (anything else, with a
    remedy): the framework records it and calls again with a weaker placement, or calls another strategy.
    All contact with the system goes through `observation.host.kernel`, which `affinity.testing.FakeHost` simulates.
    Do not verify: the framework reads back from the kernel what is in force.
    """

    #: The version of this interface that the class is written for; the registry refuses one newer than this.
    interface_version: ClassVar[int] = 1

    launch_modes: ClassVar[frozenset[LaunchMode]]

    #: Its own variables, `AFFINITY_<PLUGIN>_<OPTION>`; `observation.settings.option(…)` reads one.
    options: ClassVar[tuple[Option[Any], ...]] = ()

    @abstractmethod
    def supports(self, observation: Observation) -> Support:
        """Return whether this strategy can act for this launch on this host, and why (not)."""

    def start(self, placement: Placement, observation: Observation) -> WorkerStart:
        """Return how to start a worker by `observation.launch.start_method`. Default: as it is.

        A start method is spawn, fork or forkserver, another library's own (loky), or exec (`affinity run`). Called once
        for several workers of one placement; the returned value may be used from several threads.
        """
        return WorkerStart()

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        """Put the calling process on the placement. Default: leave it as it is."""
        return Outcome()
