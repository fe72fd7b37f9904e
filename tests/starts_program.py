"""One situation in which workers are started, in a process of its own: `starts_program.py SITUATION METHOD STRATEGY`.

Each worker prints where it was born and where it is after `affinity.bind()`; the parent prints where its threads are.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import affinity
from affinity import CpuSet, Settings
from affinity.kernel.linux import THIS_PROCESS as kernel

FIRST, LAST = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))


def state() -> list[str]:
    return [str(kernel.get_affinity()), str(kernel.get_mempolicy())]


def look(name: str, queue: Any = None) -> list[Any]:
    """What a worker sees: before `bind()`, after it, and whether there was anything left to do."""
    born = state()
    report = affinity.bind()
    seen = [name, born, state(), report.already_bound]
    if queue is not None:
        queue.put(seen)
    return seen


class Interrupts:
    """An argument whose pickling, or whose fork, is the moment at which a signal arrives."""

    def __getstate__(self) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGUSR1)
        return {}


class Situation:
    def __init__(self, method: str, strategy: str) -> None:
        self.context = multiprocessing.get_context(method)
        self.method, self.strategy = method, strategy
        self.queue = self.context.SimpleQueue()

    def at(self, cpu: int) -> Any:
        return affinity.spawning(settings=self.settings(cpu))

    def settings(self, cpu: int) -> Settings:
        names = () if self.strategy == "auto" else (self.strategy,)
        where: Any = {"policy": "explicit", "cpus": (CpuSet([cpu]),), "nodes": (0,), "devices": ("pci",)}
        return Settings(strategies=names, **where)

    def start(self, name: str, *more: Any) -> None:
        worker = self.context.Process(target=look, args=(name, self.queue, *more)[:2])
        if more:
            worker._kept = more  # type: ignore[attr-defined]
        worker.start()
        show(self.queue.get())
        worker.join(20)

    def plain(self) -> None:
        with self.at(FIRST):
            self.start("first")
        self.start("all")

    def nested(self) -> None:
        with self.at(FIRST):
            with self.at(LAST):
                self.start("last")
            self.start("first")

    def asyncio(self) -> None:
        async def one(inside: asyncio.Event, leave: asyncio.Event) -> None:
            with self.at(FIRST):
                inside.set()
                await leave.wait()
                self.start("first")

        async def main() -> None:
            inside, leave = asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(one(inside, leave))
            await inside.wait()
            with self.at(LAST):
                leave.set()
                await task  # the first block closes while the second is open
                self.start("last")
            self.start("all")

        asyncio.run(main())

    def thread(self) -> None:
        """Another thread is not in the block; a block that is left in another thread is closed for both."""
        stack = ExitStack()
        stack.enter_context(self.at(FIRST))
        in_thread(lambda: self.start("all"))
        self.start("first")
        in_thread(stack.close)
        self.start("all")

    def signal(self) -> None:
        """A handler that opens a block while the interrupted thread is in the middle of a start."""

        def handle(*_: object) -> None:
            with self.at(LAST):
                worker = self.context.Process(target=look, args=("last", others))
                worker.start()
                show(others.get())
                worker.join(20)

        others = self.context.SimpleQueue()
        signal.signal(signal.SIGUSR1, handle)
        parent, armed = os.getpid(), [True]

        def before_fork() -> None:
            if self.method == "fork" and os.getpid() == parent and armed.pop():
                armed.append(False)
                os.kill(parent, signal.SIGUSR1)
            else:
                armed.append(False)

        with self.at(FIRST):
            if self.method == "fork":
                os.register_at_fork(before=before_fork)
            self.start("first", Interrupts())

    def fork(self) -> None:
        """A process that is forked in the block is not in it."""
        with self.at(FIRST):
            pid = os.fork()
            if pid == 0:
                self.start("all")
                sys.stdout.flush()
            else:
                os.waitpid(pid, 0)
                self.start("first")
        if pid == 0:
            os._exit(0)

    def pool(self) -> None:
        """A pool made in the block replaces its workers later, from a thread of its own."""
        with self.at(FIRST):
            pool = self.context.Pool(1, maxtasksperchild=1)
        self.use(pool)
        if self.method != "fork":  # which an executor refuses together with max_tasks_per_child
            with self.at(FIRST):
                executor = ProcessPoolExecutor(1, mp_context=self.context, max_tasks_per_child=1)
                show(executor.submit(look, "first").result())
            with executor:
                for _ in range(2):
                    show(executor.submit(look, "first").result())

    def carried(self) -> None:
        """The same, by a context that carries its placement."""
        context = affinity.get_context(self.method, settings=self.settings(FIRST))
        worker = context.Process(target=look, args=("first", self.queue))
        in_thread(worker.start)
        show(self.queue.get())
        worker.join(20)
        self.use(context.Pool(1, maxtasksperchild=1))
        per_child = None if self.method == "fork" else 1
        with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=per_child) as executor:
            for _ in range(3):
                show(executor.submit(look, "first").result())
        self.start("all")

    def use(self, pool: Any) -> None:
        with pool:
            for _ in range(3):
                try:
                    show(pool.apply_async(look, ("first",)).get(30))
                except multiprocessing.TimeoutError:
                    show_stacks(pool._pool)
                    raise


def in_thread(call: Any) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join(60)


def show_stacks(workers: list[Any]) -> None:
    """Print to stderr where every thread is: those of this process, then those of each worker that is alive."""
    faulthandler.dump_traceback()
    for worker in workers:
        print(worker, file=sys.stderr, flush=True)
        if worker.is_alive():
            os.kill(worker.pid, signal.SIGUSR2)
            time.sleep(1)


def show(seen: Any) -> None:
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    situation, method, strategy = sys.argv[1:]
    faulthandler.register(signal.SIGUSR2)
    stop = threading.Event()
    threading.Thread(target=stop.wait, daemon=True).start()
    getattr(Situation(method, strategy), situation)()
    masks = set()
    for tid in kernel.threads():
        with suppress(ProcessLookupError):  # a thread of a pool, which ends
            masks.add(str(kernel.get_affinity(tid)))
    show(["parent", sorted(masks), state()])
