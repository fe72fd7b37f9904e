"""Binding every thread of a process of 1, 20 and 500, against a bare loop of sched_setaffinity over the same threads.

The loop lists the threads once and looks at nothing: it pins what others have pinned, and misses what starts
meanwhile. All in turn, from the same state; the calling thread's processor time, and the least of all rounds, since
what a busy neighbour adds is no cost of ours. Goal: at most twice. The last figure is against a loop that is even
given the list.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from affinity import CpuSet
from affinity.kernel.linux import THIS_PROCESS
from affinity.strategies.process import bind_threads

ROUNDS = 51


def timed(act: Callable[[], object], undo: Callable[[], object]) -> float:
    """Seconds of processor time, and back."""
    began = time.thread_time()
    act()
    spent = time.thread_time() - began
    undo()
    return spent


def loop(cpus: set[int]) -> None:
    for name in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(name), cpus)


def measure(count: int) -> tuple[float, float, float]:
    """Least seconds of ours, of the loop, and of the loop that is given the list, with this many threads."""
    end = threading.Event()
    started = [threading.Thread(target=end.wait) for _ in range(count - 1)]
    for thread in started:
        thread.start()
    everywhere = os.sched_getaffinity(0)
    target = {min(everywhere)}
    placed = CpuSet(target)  # as a placement has it, as the loop has its set
    listed = list(THIS_PROCESS.threads())
    assert len(listed) == count, f"{len(listed)} threads, {count} expected"

    def given() -> None:
        for tid in listed:
            os.sched_setaffinity(tid, target)

    def ours() -> None:
        assert bind_threads(placed, THIS_PROCESS).bound == count

    ways = (ours, lambda: loop(target), given)
    found = [[timed(way, lambda: loop(everywhere)) for way in ways] for _ in range(ROUNDS)]
    end.set()
    for thread in started:
        thread.join()
    mine, theirs, bare = (min(spent) for spent in zip(*found, strict=True))
    return mine, theirs, bare


def main() -> None:
    for count in (1, 20, 500):
        ours, theirs, bare = measure(count)
        print(f"{count} threads: {ours * 1e6:.0f} us, loop {theirs * 1e6:.0f} us: {ours / theirs:.2f} times "
              f"(given the list, {bare * 1e6:.0f} us: {ours / bare:.2f} times)")  # fmt: skip


if __name__ == "__main__":
    main()
