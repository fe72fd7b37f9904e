"""The start of a `multiprocessing` worker, seen from the parent's thread.

`multiprocessing` has one executable for a whole process and no hook for one start, so engines replace the
executable by a script in a temporary folder: global, left behind after a crash, and hanging where the folder is
mounted noexec. Here the argument list of the very start is rewritten instead, for the calling thread alone:
no file, no environment change, no shell, and `multiprocessing.spawn`'s executable is never touched. While some
thread is inside `starting`, two names of multiprocessing are replaced: `util` inside `popen_spawn_posix` (so that the
resource tracker, which another module starts with the same function, is not caught) and `BaseProcess.start`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from affinity.errors import UsageError

#: argv -> argv; the first element is also the file executed.
Rewrite = Callable[[list[str]], Sequence[str]]


@attrs.frozen
class _Frame:
    rewrite: Rewrite | None
    methods: frozenset[str] | None
    why: str
    forked: Callable[[], None] | None


class _Frames(threading.local):
    """The `starting` blocks the calling thread is in."""

    def __init__(self) -> None:
        self.stack: list[_Frame] = []


_frames = _Frames()
_lock = threading.Lock()
_users = 0
_originals: tuple[Any, Any] = (None, None)


@contextmanager
def starting(
    *,
    rewrite: Rewrite | None = None,
    methods: frozenset[str] | None = None,
    why: str = "",
    forked: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Within the block, the calling thread's worker starts go by `methods` alone (None: by any), and those by
    spawn with a rewritten command. forked: called first of all in a process that the thread forks there.

    Blocks nest: the innermost rewrite is applied first. A start by another method raises UsageError, with `why`,
    before anything is started.
    """
    _install()
    _frames.stack.append(_Frame(rewrite, methods, why, forked))
    try:
        yield
    finally:
        if _frames.stack:  # empty in a process that was forked inside the block and leaves it
            _frames.stack.pop()
            _uninstall()


def rewritten(argv: Sequence[str]) -> list[str]:
    """A worker's command as the calling thread's `starting` blocks rewrite it."""
    for frame in reversed(_frames.stack):
        argv = frame.rewrite(list(argv)) if frame.rewrite is not None else argv
    return list(argv)


def _forked() -> None:
    """A worker that was forked inside a block is not in it, and inherits no held lock."""
    global _lock
    _lock = threading.Lock()
    left, _frames.stack = _frames.stack, []
    for frame in left:
        if frame.forked is not None:
            frame.forked()


os.register_at_fork(after_in_child=_forked)


def _install() -> None:
    global _users, _originals
    with _lock:
        _users += 1
        if _users == 1:
            popen, process = _hooked()
            _originals = (popen.util, process.start)
            popen.util, process.start = _Util(popen.util), _guarded_start


def _uninstall() -> None:
    global _users
    with _lock:
        _users -= 1
        if not _users:
            popen, process = _hooked()
            popen.util, process.start = _originals


def _hooked() -> tuple[Any, Any]:
    """The module and the class whose names are replaced."""
    from multiprocessing import popen_spawn_posix, process

    return popen_spawn_posix, process.BaseProcess


class _Util:
    """`multiprocessing.util`, with the one function that starts a worker rewritten."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def spawnv_passfds(self, path: bytes | str, args: Sequence[str], passfds: Sequence[int]) -> int:
        argv = rewritten([os.fsdecode(arg) for arg in args])
        changed = argv[0] != os.fsdecode(args[0])
        return int(self._real.spawnv_passfds(os.fsencode(argv[0]) if changed else path, argv, passfds))


def _guarded_start(process: Any) -> None:
    method = _start_method(process)
    for frame in _frames.stack:
        if frame.methods is not None and method not in frame.methods:
            accepted = " or ".join(sorted(frame.methods))
            raise UsageError(
                f"start method {method!r} inside affinity.spawning(): {frame.why}; "
                f"use multiprocessing.get_context({accepted!r}).Process, or call affinity.bind() in the worker"
            )
    _originals[1](process)


def _start_method(process: Any) -> str:
    method = getattr(process, "_start_method", None)
    if method is None:  # a Process of the default context
        import multiprocessing

        method = multiprocessing.get_start_method()
    return str(method)
