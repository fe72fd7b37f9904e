"""Whole commands in turn, so that a busy neighbour slows each of them alike."""

from __future__ import annotations

import os
import statistics
import time

_QUIET = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]


def milliseconds(
    commands: dict[str, list[str]], rounds: int, environ: dict[str, str] | None = None
) -> dict[str, float]:
    """The least processor time of each, with its children's: what is least disturbed by neighbours.

    A command that fails ends the benchmark.
    """
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, argv in commands.items():
            child = os.posix_spawnp(argv[0], argv, environ or os.environ, file_actions=_QUIET)
            _, status, used = os.wait4(child, 0)
            assert status == 0, f"{argv} ended with {os.waitstatus_to_exitcode(status)}"
            taken[name].append((used.ru_utime + used.ru_stime) * 1e3)
    return {name: min(times) for name, times in taken.items()}


def wall(commands: dict[str, list[str]], rounds: int, environ: dict[str, str] | None = None) -> dict[str, float]:
    """The median time of each by the clock, as a user waits for it."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, argv in commands.items():
            begin = time.perf_counter()
            child = os.posix_spawnp(argv[0], argv, environ or os.environ, file_actions=_QUIET)
            assert os.waitpid(child, 0)[1] == 0, argv
            taken[name].append((time.perf_counter() - begin) * 1e3)
    return {name: statistics.median(times) for name, times in taken.items()}


def ratio(what: str, mine: str, peer: str, times: dict[str, float], limit: float | None = None) -> bool:
    """Print one comparison; False where it is over its limit."""
    found = times[mine] / times[peer]
    bound = "" if limit is None else f", at most {limit:g}: {'yes' if found <= limit else 'NO'}"
    print(f"{what}: {mine} / {peer} = {found:.2f} ({times[mine]:.1f} / {times[peer]:.1f} ms{bound})")
    return limit is None or found <= limit
