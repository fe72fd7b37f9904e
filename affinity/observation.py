"""`Observation`: the one value that goes through the five verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from affinity.host import Host
from affinity.launchers.launch import Launch
from affinity.settings import Settings

if TYPE_CHECKING:
    from affinity.kernel.protocol import Process
    from affinity.launchers.launcher import Launcher


@attrs.frozen
class Observation:
    """What is known before anything is decided: all that a policy, a rule or a strategy may look at.

    host: the machine, its kernel, and what this process may use. launch: how the worker was started, and its GPUs.
    settings: the operator's flags. launcher: which one recognised the process, None for none. ignored: warnings about
    variables that nothing reads. faults: warnings about launchers that are broken or raised. stays: the worker is left
    where its bound parent is. target: the process to bind if it is another one (launch mode `attach`); the CPUs and
    nodes that `host` allows are then that process's.
    """

    host: Host
    launch: Launch
    settings: Settings = attrs.field(factory=Settings)
    launcher: Launcher | None = attrs.field(default=None, eq=False, repr=False)
    ignored: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    stays: bool = False
    target: Process | None = attrs.field(default=None, eq=False)

    @property
    def process(self) -> Process:
        """The process to bind: this one, or under launch mode `attach` another."""
        return self.target or self.host.kernel

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is logged where a process is bound or a worker is started, besides degradations."""
        return (*self.ignored, *self.faults)
