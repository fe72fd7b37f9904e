"""Hook around the start of `multiprocessing` workers.

`multiprocessing` has one executable for a whole process and no hook for one start. So engines replace the executable by
a script in a temporary folder, which is global, remains after a crash, and hangs if the folder is mounted noexec. This
module changes the command of one start, in the thread that starts it: no file, no environment change, no shell.

The first `spawning()` block replaces `BaseProcess.start` and the `spawnv_passfds` that `popen_spawn_posix` calls
(the resource tracker and the fork server are started through other modules). Both stay replaced, because removing them
could remove another library's patch. Outside a block they call the original.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import attrs

from affinity.errors import ForeignHostError
from affinity.host import this_process
from affinity.strategies.strategy import WorkerStart

T = TypeVar("T")


@attrs.frozen
class PreparedStart:
    """The start that a strategy returned, and the text that is passed to the worker (affinity.handoff).

    bind_and_run: called in a worker that binds itself, with its `run()`. started: called with the PID of each worker.
    simulated: the host is a simulation, and so is every worker.
    """

    start: WorkerStart
    handoff: str
    bind_and_run: Callable[[Callable[[], None]], None] = lambda run: run()
    started: Callable[[int], None] = lambda _: None
    simulated: bool = False


#: Returns the start for a start method. Raises BindError if binding is required and the method is not supported.
Prepare = Callable[[str], PreparedStart]


@attrs.define(eq=False)
class Block:
    """An open `spawning()` block. It is found through the context (PEP 567), and valid in its own process only."""

    prepare: Prepare
    outer: Block | None
    pid: int = attrs.field(factory=os.getpid)
    is_open: bool = True


_block: ContextVar[Block | None] = ContextVar("affinity_spawning", default=None)


def current_block() -> Block | None:
    """Return the innermost block of this context that is open and was opened in this process."""
    block = _block.get()
    while block is not None and not (block.is_open and block.pid == os.getpid()):
        block = block.outer
    return block


@contextmanager
def open_block(prepare: Prepare) -> Iterator[None]:
    """Prepare the starts of this context until the block is left, in any thread, context or order."""
    install_hooks()
    block = Block(prepare, current_block())
    _block.set(block)
    try:
        yield
    finally:
        block.is_open = False
        if _block.get() is block:
            _block.set(block.outer)


def start_prepared(worker: Any, prepare: Prepare, start: Callable[[Any], T]) -> T:
    """Start a `multiprocessing.Process` by `start(worker)`, as prepared for its start method."""
    import multiprocessing

    method = getattr(worker, "_start_method", None) or multiprocessing.get_start_method()
    prepared = prepare(method)
    if prepared.simulated:
        raise _refusal(worker)
    worker._affinity_handoff = prepared.handoff  # travels with the object: pickled, or through the fork
    if method == "spawn":
        outer, _thread.starting = _thread.starting, prepared  # for `_Util.spawnv_passfds`, after pickling
        try:
            started = start(worker)
        finally:
            _thread.starting = outer
    elif prepared.start.binds_itself:
        worker.run = partial(prepared.bind_and_run, worker.run)  # pickled with the object
        try:
            started = start(worker)
        finally:
            del worker.run
    else:
        with prepared.start.around():
            started = start(worker)
    prepared.started(getattr(started, "pid", None) or worker.pid)
    return started


def _refusal(worker: Any) -> ForeignHostError:
    return ForeignHostError(
        f"{worker.name} would be a real process, and the host is simulated: start a simulated worker in its place "
        "(FakeHost.start_worker), or start it outside of the block"
    )


def worker_command(argv: Sequence[str], prepared: PreparedStart) -> list[str]:
    """Return the command of a spawned worker: the prefix, the interpreter, and the handoff as an option."""
    passed = () if getattr(sys, "frozen", False) else ("-X", f"affinity={prepared.handoff}")
    return [*prepared.start.prefix, argv[0], *passed, *argv[1:]]


class _Thread(threading.local):
    starting: PreparedStart | None = None


_thread = _Thread()
_installed = False
_original_start: Callable[[Any], None]


def install_hooks() -> None:
    """Replace the two functions, once. Concurrent calls assign the same objects."""
    global _installed, _original_start
    if _installed:
        return
    from multiprocessing import popen_spawn_posix
    from multiprocessing.process import BaseProcess

    start, util = BaseProcess.start, popen_spawn_posix.util  # type: ignore[attr-defined]
    if start is not _start:
        _original_start = start
        BaseProcess.start = _start  # type: ignore[method-assign,assignment]
    if not isinstance(util, _Util):
        popen_spawn_posix.util = _Util(util)  # type: ignore[attr-defined]
    _installed = True


def _start(worker: Any) -> None:
    """Replace `BaseProcess.start`: start the worker as its block or its pool prepared."""
    if "_affinity_prepare" in worker.__dict__:  # of `get_context()`, which has precedence over a block
        return _original_start(worker)
    block = current_block() or _pool_block(worker)
    if block is None:
        if not this_process().is_this_process:  # what it runs may bind itself, and would bind a real process
            raise _refusal(worker)
        outer, _thread.starting = _thread.starting, None  # of a worker whose pickling starts this one
        try:
            return _original_start(worker)
        finally:
            _thread.starting = outer
    _keep_for_pool(worker, block)
    return start_prepared(worker, block.prepare, _original_start)


class _Util:
    """`multiprocessing.util`, whose `spawnv_passfds` starts a worker as prepared."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def spawnv_passfds(self, path: bytes | str, args: Sequence[str], passfds: Sequence[int]) -> int:
        prepared, _thread.starting = _thread.starting, None
        if prepared is None:
            return int(self._real.spawnv_passfds(path, args, passfds))
        argv = worker_command([os.fsdecode(path), *map(os.fsdecode, args[1:])], prepared)
        with prepared.start.around():
            return int(self._real.spawnv_passfds(os.fsencode(argv[0]), argv, passfds))


#: The functions that run in a pool's workers. The first argument is the pool's own queue.
_POOL_WORKERS = {
    ("multiprocessing.pool", "worker"),
    ("concurrent.futures.process", "_process_worker"),
    ("loky.process_executor", "_process_worker"),
    ("joblib.externals.loky.process_executor", "_process_worker"),
}

#: By the queue of a pool whose first workers were started in a block. The pool's own thread starts the later ones.
_pools: weakref.WeakKeyDictionary[Any, Block] = weakref.WeakKeyDictionary()


def _is_pool_worker(worker: Any) -> bool:
    target = getattr(worker, "_target", None)
    return (getattr(target, "__module__", ""), getattr(target, "__name__", "")) in _POOL_WORKERS


def _keep_for_pool(worker: Any, block: Block) -> None:
    if _is_pool_worker(worker):
        _pools[worker._args[0]] = block


def _pool_block(worker: Any) -> Block | None:
    block = _pools.get(worker._args[0]) if _pools and _is_pool_worker(worker) else None
    return block if block is not None and block.pid == os.getpid() else None
