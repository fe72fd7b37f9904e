"""`Launcher`: one way in which worker processes are started."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from affinity.errors import UsageError
from affinity.kernel.protocol import Process, ancestors
from affinity.launchers.launch import Launch, LaunchMode

if TYPE_CHECKING:
    from affinity.report.report import BindReport


class Launcher(ABC):
    """Entry-point group `affinity.launchers`: one way in which worker processes are started.

    Write a class with a no-argument constructor. The installed launchers are asked at each public call, so the module
    imports nothing heavy, and `detect` looks at environment variables, `sys.modules` and small files of /proc only.
    """

    #: The version of this interface that the class is written for; the registry refuses one newer than this.
    interface_version: ClassVar[int] = 1
    #: The strategies that serve this mode serve the launcher's workers.
    mode: ClassVar[LaunchMode] = LaunchMode.INLINE
    #: If several launchers recognise a process, the smallest distance wins. Built in: launchers that set variables
    #: for each rank 10, message passing 20, batch systems 30, multiprocessing 40, clusters of actors 50.
    distance: ClassVar[int] = 15
    #: Its own programs in Python, which start workers and are none: base names of scripts, and names of modules.
    programs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def detect(self, environ: Mapping[str, str], process: Process) -> Launch | None:
        """Return the launch if this launcher started `process`, else None.

        environ: the variables of `process` that its starter does not have with the same value.
        Set `assigned` to the GPU references that it gave the process, () if it gave none, None if that is unknown.
        """

    def starter(self, process: Process) -> Process | None:
        """Return the process that started `process`, None if unknown. Default: None."""
        return None

    def autostart(self, program: str) -> bool:
        """Return whether this Python process, which starts under AFFINITY_AUTOSTART=1, belongs to the launcher itself.

        Such a process is not bound. program: the path of its script, the name of its module or the text of `-c`. If
        workers get their GPUs after the start of their interpreter, prepare their bind here. Default: `programs`.
        """
        return program in self.programs or os.path.basename(program) in self.programs

    def worker_name(self, command: Sequence[str]) -> str:
        """Return the name of a worker of this launcher as its command line shows it. Default: "", it does not."""
        return ""

    def notify(self, report: BindReport | None) -> None:  # noqa: B027
        """Take note of the report now in force, None if nothing is bound any more. Called after each bind and undo."""


class EnvironmentLauncher(Launcher):
    """A launcher whose workers find their local rank in the environment. Name the variables; `detect` is done.

    markers: variables that each of its workers has. rank, size: the variables of the local rank and the number of
    local workers. binds_workers: whether it can give each worker a CPU mask of its own. A process that has all
    variables is a worker if at least one was set for it alone: a nested launch may give a variable the value that its
    starter has too.
    """

    markers: ClassVar[tuple[str, ...]]
    rank: ClassVar[str]
    size: ClassVar[str]
    binds_workers: ClassVar[bool] = False

    def detect(self, environ: Mapping[str, str], process: Process) -> Launch | None:
        names = (*self.markers, self.rank)
        found = process.environ
        if not all(name in found for name in names) or not any(name in environ for name in names):
            return None
        return Launch(
            self.mode,
            f"{' and '.join(names)} are set",
            local_rank=parse_rank(found, self.rank),
            local_size=self.local_size(found),
            binds_workers=self.binds_workers,
        )

    def local_size(self, environ: Mapping[str, str]) -> int | None:
        """Return the number of local workers, None if unknown. environ: all variables of the process."""
        return parse_rank(environ, self.size)


def parse_rank(environ: Mapping[str, str], name: str) -> int | None:
    """Return the whole number in this variable, None if it is unset or empty. Raises UsageError for other text."""
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise UsageError(f"{name}={text!r}: a count from 0 was expected; correct it or pass gpu=…")
    return int(text)


def ancestor(process: Process, pid: int) -> Process | None:
    """Return the process of this PID among the parents of `process` and theirs, None if it is not there."""
    return next((above for above in ancestors(process) if above.pid == pid), None)
