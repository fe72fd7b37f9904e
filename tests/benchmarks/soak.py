"""Does a process that binds for months grow? `python tests/benchmarks/soak.py [ROUNDS]`, by default 20,000 of each.

Prints resident memory, open files and threads at ten points of each loop. The exit status is 1 if one of them is not
flat: after the first fifth, in which caches fill, memory may grow by 1 MiB, and the others by nothing.
"""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import affinity
from affinity import Settings
from affinity.testing import machines

MIB = 1 << 20
DGX = machines.host("dgx-h100")


class Usage(NamedTuple):
    """Of this process: bytes of resident memory, open files, threads."""

    resident: int
    files: int
    threads: int

    @classmethod
    def now(cls) -> Usage:
        gc.collect()
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[1])
        return cls(
            pages * os.sysconf("SC_PAGESIZE"), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        )

    def is_flat(self, later: Usage) -> bool:
        return later.resident - self.resident <= MIB and later[1:] == self[1:]


def bind_and_undo() -> None:
    affinity.bind(node=0).undo()


def plan() -> None:
    affinity.plan(node=0)


def plan_elsewhere() -> None:
    affinity.plan(gpu=5, host=DGX)


def bind_restored() -> None:
    with affinity.restored():
        affinity.bind(node=0)


def open_block(strategy: str) -> None:
    with affinity.spawning(node=0, settings=Settings(strategies=(strategy,))):
        pass


def start(method: str, strategy: str) -> None:
    """Start a worker that ends at once, and wait for it."""
    with affinity.spawning(node=0, settings=Settings(strategies=(strategy,))):
        process = multiprocessing.get_context(method).Process(target=int)
        process.start()
    process.join()
    assert process.exitcode == 0
    process.close()


#: Each loop, and how many of its rounds count as one: a start by spawn takes as long as a hundred of the others.
LOOPS: dict[str, tuple[Callable[[], None], int]] = {
    "bind and undo": (bind_and_undo, 1),
    "bind in restored()": (bind_restored, 1),
    "plan": (plan, 1),
    "plan for another machine": (plan_elsewhere, 1),
    "spawning(), numactl": (functools.partial(open_block, "numactl"), 1),
    "spawning(), inherit": (functools.partial(open_block, "inherit"), 1),
    "a start by fork, inherit": (functools.partial(start, "fork", "inherit"), 10),
    "a start by spawn, numactl": (functools.partial(start, "spawn", "numactl"), 100),
    "a start by spawn, inherit": (functools.partial(start, "spawn", "inherit"), 100),
}


def soak(name: str, rounds: int) -> bool:
    """Run one loop and print its usage; return whether it is flat."""
    call, share = LOOPS[name]
    rounds = max(rounds // share, 10)
    points, began = [], time.perf_counter()
    for done in range(1, rounds + 1):
        call()
        if done % (rounds // 10) == 0:
            points.append(Usage.now())
    took = (time.perf_counter() - began) / rounds * 1e3
    flat = points[1].is_flat(points[-1])
    resident = " ".join(f"{point.resident / MIB:.1f}" for point in points)
    ends = f"{points[1].files} to {points[-1].files} files, {points[1].threads} to {points[-1].threads} threads"
    print(
        f"{name}: {rounds} rounds of {took:.1f} ms, {'flat' if flat else 'NOT FLAT'}: MiB {resident}; {ends}",
        flush=True,
    )
    return flat


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    flat = {name: soak(name, rounds) for name in LOOPS}
    return 0 if all(flat.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
