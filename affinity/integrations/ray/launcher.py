"""Ray as a launcher: which processes are its workers, and which GPUs it assigned to each."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from affinity.integrations.ray.context import accelerator_ids, worker_context
from affinity.kernel import Process
from affinity.launchers import Launch, Launcher, LaunchMode, ancestor

if TYPE_CHECKING:
    from affinity import BindReport


class RayLauncher(Launcher):
    """Ray's workers: the processes of actors and tasks. What they start has their variables and is none of them."""

    mode, distance = LaunchMode.RAY, 50
    programs = ("ray",)

    def detect(self, environ: Mapping[str, str], process: Process) -> Launch | None:
        if process.is_this_process:
            ids = accelerator_ids(process)
            if ids is None:
                return None
            return Launch(self.mode, "a Ray worker", assigned=tuple(f"driver:{i}" for i in ids))
        if "RAY_RAYLET_PID" in environ and "RAY_JOB_ID" in environ:
            return Launch(self.mode, "RAY_RAYLET_PID and RAY_JOB_ID are set")
        return None

    def starter(self, process: Process) -> Process | None:
        """Return the raylet. It has the variables of what started `ray start`, and its workers inherit them."""
        raylet = process.environ.get("RAY_RAYLET_PID", "")
        return ancestor(process, int(raylet)) if raylet.isdecimal() else None

    def autostart(self, program: str) -> bool:
        """Return whether this is a process of Ray: a command, a daemon or a worker, whose bind is prepared.

        Source: the command lines in ray/_private/services.py, and runtime_env/context.py.
        """
        if os.path.basename(program) == "default_worker.py" and "RAY_RAYLET_PID" in os.environ:
            from affinity.integrations.ray.autostart import install

            install()
        daemon = any(folder in program for folder in ("/ray/_private/", "/ray/dashboard/", "/ray/autoscaler/"))
        return daemon or program.startswith("ray.") or super().autostart(program)

    def worker_name(self, command: Sequence[str]) -> str:
        """Return the name of the actor or task: the title of its process is `ray::Name` or `ray::Name.method`.

        Source: execute_task() in python/ray/_raylet.pyx of Ray 2.44 to 2.60.
        """
        title = command[0].removesuffix("()") if command else ""
        name = title.removeprefix("ray::")
        return "" if name in (title, "IDLE") else name.rpartition(".")[0] or name

    def notify(self, report: BindReport | None) -> None:
        """Write the actor's record for `audit`, or delete it."""
        if "ray" in sys.modules:  # not in a simulated process
            from affinity.integrations.ray.store import publish

            publish(report, worker_context())
