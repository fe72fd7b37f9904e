"""`numactl` (V2): the worker's interpreter starts under numactl, so every thread and page is local from birth.

Options: numactl(8). `--physcpubind` with exact CPUs, never `--cpunodebind`, which widens a mask that the operator
or a container narrowed; `--all` where the placement has CPUs outside the calling thread's mask (isolated CPUs, or
a parent that this framework bound elsewhere).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from affinity import BindError, Host, LaunchMode
from affinity.kernel import MemoryMode
from affinity.policies import Placement
from affinity.strategies import AffinityStrategy, Observation, Outcome, Support

#: Seconds that numactl may take to answer a probe; it needs milliseconds.
PROBE_SECONDS = 10.0

_MEMORY_OPTIONS = {
    MemoryMode.PREFERRED: "--preferred",
    MemoryMode.PREFERRED_MANY: "--preferred-many",
    MemoryMode.BIND: "--membind",
    MemoryMode.INTERLEAVE: "--interleave",
}


class Numactl(AffinityStrategy):
    """Serves workers that are not running yet; one that was born without it is bound in process."""

    launch_modes = frozenset({LaunchMode.SPAWN, LaunchMode.COMMAND})

    def supports(self, observation: Observation) -> Support:
        if observation.host.is_foreign:
            return Support.yes("numactl, on that machine")
        found = _on_path("numactl", observation.host)
        return Support.yes(found) if found else Support.no("numactl is not on PATH: apt-get install numactl")

    def spawning(self, placement: Placement, host: Host) -> AbstractContextManager[None]:
        return self._spawning(placement, host)

    @contextmanager
    def _spawning(self, placement: Placement, host: Host) -> Iterator[None]:
        prefix = self._prefix(placement, host)
        # What is probed is what will be executed: this numactl, these options, this interpreter.
        import multiprocessing.spawn

        interpreter = os.fsdecode(multiprocessing.spawn.get_executable())
        self._probe([*prefix, interpreter, "-I", "-S", "-c", "print(1)"], host)
        from affinity.strategies import starting

        with starting(
            rewrite=lambda argv: [*prefix, interpreter, *argv[1:]],
            methods=frozenset({"spawn"}),
            why="strategy numactl starts a new interpreter, which only spawn does",
        ):
            yield

    def command(self, argv: Sequence[str], placement: Placement, host: Host) -> Sequence[str]:
        prefix = self._prefix(placement, host)
        # Not `true` alone: numactl would look for it on a PATH that may have the current directory in it.
        self._probe([*prefix, _on_path("true", host) or sys.executable, "--version"], host)
        return [*prefix, *argv]

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        from affinity.strategies import bind_process

        return bind_process(placement, observation.host)

    def _prefix(self, placement: Placement, host: Host) -> list[str]:
        program = _on_path("numactl", host)
        if program is None:
            raise BindError("numactl is not on PATH: apt-get install numactl")
        prefix = [program]
        if placement.cpus is not None:
            if not placement.cpus <= host.kernel.get_affinity():
                prefix.append("--all")
            prefix.append(f"--physcpubind={placement.cpus}")
        if placement.memory is not None:
            option = _MEMORY_OPTIONS.get(placement.memory.mode)
            prefix.append(f"{option}={placement.memory.nodes}" if option else "--localalloc")
        return [*prefix, "--"]

    def _probe(self, argv: list[str], host: Host) -> None:
        # The command prints: if SIGCHLD is ignored, that is the only sign of its success.
        refused = host.kernel.check_command(argv, PROBE_SECONDS)
        if refused is not None:
            raise BindError(f"{' '.join(argv)}: {refused}")


def _on_path(program: str, host: Host) -> str | None:
    """The absolute path of a program; a relative PATH entry is never searched."""
    path = host.kernel.environ.get("PATH", os.defpath)
    return shutil.which(program, path=os.pathsep.join(p for p in path.split(os.pathsep) if os.path.isabs(p)))
