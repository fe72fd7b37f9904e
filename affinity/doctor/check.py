"""`Check` and its verdict, and `Subject`: what the checks look at."""

from __future__ import annotations

import enum
import os
from typing import TYPE_CHECKING

import attrs

from affinity.errors import SystemFileError, TopologyError
from affinity.topology.sysfs import read_text

if TYPE_CHECKING:
    from affinity.host import Host
    from affinity.observation import Observation
    from affinity.plugins import Plugins


class Verdict(enum.Enum):
    """What a value means for a binding, worst first.

    blocked: CPUs or memory cannot be bound. warn: a binding is undone, weakened or not made. unknown: where a worker
    belongs cannot be found out. note: worth a look. ok: nothing to do.
    """

    BLOCKED = "blocked"
    WARN = "warn"
    UNKNOWN = "unknown"
    NOTE = "note"
    OK = "ok"

    @property
    def is_problem(self) -> bool:
        """True if `affinity doctor --strict` fails on it."""
        return self in (Verdict.BLOCKED, Verdict.WARN, Verdict.UNKNOWN)


@attrs.frozen
class Check:
    """One check. value: what was found. remedy: the one thing to do about it, "" if nothing is."""

    name: str
    value: str
    verdict: Verdict = Verdict.OK
    remedy: str = ""


@attrs.frozen
class Subject:
    """What the checks look at.

    observation: the machine, its kernel, and a launch with all visible GPUs. plugins: the installed ones. root: the
    directory with the machine's files, None for a machine that has none (a synthetic one).
    """

    observation: Observation
    plugins: Plugins
    root: str | None = None

    @property
    def host(self) -> Host:
        return self.observation.host

    def read(self, path: str) -> str | None:
        """Return the text of a file of the machine, None if there is none or it cannot be read."""
        if self.root is None:
            return None
        try:
            return read_text(os.path.join(self.root, path))
        except (SystemFileError, TopologyError):
            return None
