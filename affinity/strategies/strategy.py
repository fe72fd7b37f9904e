"""`AffinityStrategy`: HOW a placement is put in force. This docstring and the class's are the author's guide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import attrs

from affinity.host import Host
from affinity.launchers.launch import LaunchMode
from affinity.observation import Observation
from affinity.policies.placement import Placement
from affinity.support import Support
from affinity.variables import Option


@attrs.frozen
class Outcome:
    """What a strategy has to tell beyond what the kernel shows.

    bound, others: threads given the mask, and threads left alone because someone else had pinned them.
    moved, left: bytes of pages migrated, and of pages that could not be. seconds: the time the move took.
    errors: calls that were given up without failing the bind.
    """

    bound: int = 0
    skipped: int = 0
    moved: int = 0
    unmoved: int = 0
    seconds: float = 0.0
    errors: tuple[OSError, ...] = ()


class AffinityStrategy(ABC):
    """Entry point group `affinity.strategies`: one way to put a worker where its placement says.

    Write a class with a no-argument constructor, name the launch modes it serves, and override the moments at which
    it acts (docs/reference/plugins.md tells what may change between versions of this interface):

    `supports(observation)`
        Can I act for this launch on this host? Answered from files and PATH, without importing or running
        anything heavy, never raising. The reason of a "no" reaches the operator: say what to install or set.
    `spawning(placement, host)`
        A context manager around the parent's `Process.start()` (mode `spawn`). It leaves the parent as it was,
        also when the start raises.
    `command(argv, placement, host)`
        The command to execute in place of `argv` (mode `command`).
    `bind(placement, observation)`
        In the worker's own process, before it builds anything (every mode but `command`).

    Where the placement cannot be put in force, raise OSError (from a system call) or BindError (anything
    else, with a remedy): the framework records it and comes again with a weaker placement, or another strategy.
    All contact with the system goes through `observation.host.kernel`, which `affinity.testing.FakeHost` simulates.
    Do not verify: the framework reads back from the kernel what is in force, whatever a strategy says.
    """

    #: The version of this interface that the class is written for; the registry refuses one newer than this.
    interface_version: ClassVar[int] = 1

    launch_modes: ClassVar[frozenset[LaunchMode]]

    #: Its own variables, `AFFINITY_<PLUGIN>_<OPTION>`; `observation.settings.option(…)` reads one.
    options: ClassVar[tuple[Option[Any], ...]] = ()

    @abstractmethod
    def supports(self, observation: Observation) -> Support:
        """Return whether this strategy can act for this launch on this host, and why (not)."""

    def spawning(self, placement: Placement, host: Host) -> AbstractContextManager[None]:
        """Around the start of a worker process. Default: nothing."""
        return nullcontext()

    def command(self, argv: Sequence[str], placement: Placement, host: Host) -> Sequence[str]:
        """What to execute in place of `argv`. Default: `argv`."""
        return argv

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        """In the worker's process. Default: nothing."""
        return Outcome()
