"""`numactl` (V2): the worker's interpreter starts under numactl, so every thread and page is local from the start.

Options: numactl(8). `--physcpubind` with exact CPUs, not `--cpunodebind`, which widens a mask that the operator or a
container narrowed. `--all`, because the placement may have CPUs outside the mask of the starting thread.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial

import attrs

from affinity import BindError, Host, LaunchMode
from affinity.kernel import MemoryMode
from affinity.policies import Placement
from affinity.strategies import (
    AffinityStrategy,
    Observation,
    Outcome,
    Support,
    WorkerStart,
    bind_process,
    thread_placed,
)

#: Seconds that numactl may take in a check; it needs milliseconds.
CHECK_SECONDS = 10.0

_MEMORY_OPTIONS = {
    MemoryMode.PREFERRED: "--preferred",
    MemoryMode.PREFERRED_MANY: "--preferred-many",
    MemoryMode.BIND: "--membind",
    MemoryMode.INTERLEAVE: "--interleave",
    MemoryMode.WEIGHTED_INTERLEAVE: "--weighted-interleave",  # newer than 2.0.16; the check finds it missing
    MemoryMode.LOCAL: "--localalloc",
}


class Numactl(AffinityStrategy):
    """Strategy for workers that are not started yet; a worker that was started without numactl binds itself."""

    launch_modes = frozenset({LaunchMode.SPAWN, LaunchMode.COMMAND})

    def supports(self, observation: Observation) -> Support:
        method = observation.launch.start_method
        if method not in ("", "spawn", "exec"):
            return Support.no(f"start method {method} starts no new program, which numactl needs")
        if observation.host.is_foreign:
            return Support.yes("numactl, on that machine")
        found = _on_path("numactl", observation.host)
        return Support.yes(found) if found else Support.no("numactl is not on PATH: apt-get install numactl")

    def start(self, placement: Placement, observation: Observation) -> WorkerStart:
        host = observation.host
        prefix = self._prefix(placement, host)
        # The check runs what will be executed: this numactl, these options and, for a worker, this interpreter.
        # `true` by its absolute path: numactl would search it on PATH, which may contain the current directory.
        checked = [_on_path("true", host) or sys.executable, "--version"]
        if observation.launch.start_method == "spawn":
            import multiprocessing.spawn

            checked = [os.fsdecode(multiprocessing.spawn.get_executable()), "-I", "-S", "-c", "print(1)"]
        if prefix:
            self._check([*prefix, *checked], host)
        if placement.memory is not None and placement.memory.mode is MemoryMode.DEFAULT:  # numactl has no option for it
            memory = attrs.evolve(placement, cpus=None)
            return WorkerStart(tuple(prefix), partial(thread_placed, memory, host.kernel))
        return WorkerStart(tuple(prefix))

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        return bind_process(placement, observation.host)

    def _prefix(self, placement: Placement, host: Host) -> list[str]:
        program = _on_path("numactl", host)
        if program is None:
            raise BindError("numactl is not on PATH: apt-get install numactl")
        options: list[str] = []
        if placement.cpus is not None:
            options += ["--all", f"--physcpubind={placement.cpus}"]
        if placement.memory is not None and placement.memory.mode in _MEMORY_OPTIONS:
            option, nodes = _MEMORY_OPTIONS[placement.memory.mode], placement.memory.nodes
            options.append(f"{option}={nodes}" if nodes else option)
        return [program, *options, "--"] if options else []

    def _check(self, argv: list[str], host: Host) -> None:
        # The command prints: if SIGCHLD is ignored, that is the only sign of its success.
        refused = host.kernel.check_command(argv, CHECK_SECONDS)
        if refused is not None:
            raise BindError(f"{' '.join(argv)}: {refused}")


def _on_path(program: str, host: Host) -> str | None:
    """Return the absolute path of a program, without searching relative PATH entries."""
    path = host.kernel.environ.get("PATH", os.defpath)
    return shutil.which(program, path=os.pathsep.join(p for p in path.split(os.pathsep) if os.path.isabs(p)))
