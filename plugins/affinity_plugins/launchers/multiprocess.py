"""`multiprocessing`: a child process that was started outside `affinity.spawning()`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from affinity import LaunchMode
from affinity.kernel import Process
from affinity.launchers import Launch, Launcher, ancestor


class Multiprocessing(Launcher):
    """Children of `multiprocessing` and of libraries that use it, by spawn, fork and forkserver."""

    mode, distance = LaunchMode.SPAWN, 40

    def detect(self, environ: Mapping[str, str], process: Process) -> Launch | None:
        return Launch(self.mode, "a child process of multiprocessing") if _parent_pid(process) else None

    def starter(self, process: Process) -> Process | None:
        parent = _parent_pid(process)
        return ancestor(process, parent) if parent else None  # not the nearest one where a fork server is between


def _parent_pid(process: Process) -> int:
    """Return the PID of the process that called `start()`, 0 if `process` is no child of multiprocessing."""
    module = sys.modules.get("multiprocessing.process") if process.is_this_process else None
    parent = module.parent_process() if module is not None else None
    return parent.pid or 0 if parent is not None else 0
