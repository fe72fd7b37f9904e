"""`multiprocessing`: a child process that was started outside `affinity.spawning()`."""

from __future__ import annotations

from collections.abc import Mapping

from affinity.kernel import Process, multiprocessing_parent
from affinity.launchers import Launch, Launcher, LaunchMode, ancestor


class Multiprocessing(Launcher):
    """Children of `multiprocessing` and of libraries that use it, by spawn, fork and forkserver."""

    mode, distance = LaunchMode.SPAWN, 40

    def detect(self, environ: Mapping[str, str], process: Process) -> Launch | None:
        return Launch(self.mode, "a child process of multiprocessing") if multiprocessing_parent(process) else None

    def starter(self, process: Process) -> Process | None:
        parent = multiprocessing_parent(process)
        return ancestor(process, parent) if parent else None  # not the nearest one where a fork server is between
