"""Start-up of a spawned worker under `numactl` and under `inherit`, one alone and eight at once.

A worker's time is from `start()` to its first line. The ratio is of medians, taken in turn in one run.
"""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from typing import Any

import affinity
from affinity import Settings

ROUNDS = 7
spawn = multiprocessing.get_context("spawn")


def first_line(queue: Any) -> None:
    queue.put(time.monotonic())


def start(strategy: str, times: list[float]) -> None:
    """One worker; the seconds it took are appended."""
    queue = spawn.SimpleQueue()
    worker = spawn.Process(target=first_line, args=(queue,))
    begin = time.monotonic()
    with affinity.spawning(node=0, settings=Settings(strategies=(strategy,))):
        worker.start()
    times.append(queue.get() - begin)
    worker.join()


def at_once(strategy: str, count: int) -> float:
    """Seconds until the last of `count` workers, started by as many threads, has run its first line."""
    times: list[float] = []
    threads = [threading.Thread(target=start, args=(strategy, times)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(times)


def main() -> None:
    for count in (1, 8):
        taken: dict[str, list[float]] = {"numactl": [], "inherit": [], "noop": []}
        for _ in range(ROUNDS):
            for strategy, times in taken.items():
                times.append(at_once(strategy, count))
        median = {strategy: statistics.median(times) for strategy, times in taken.items()}
        reported = ", ".join(f"{name} {seconds * 1e3:.0f} ms" for name, seconds in median.items())
        ratio = median["inherit"] / median["numactl"]
        print(f"start of {count} worker(s): inherit / numactl = {ratio:.2f} ({reported})")


if __name__ == "__main__":
    main()
