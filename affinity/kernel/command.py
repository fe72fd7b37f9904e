"""Run a command to its end, only to learn whether it works.

By posix_spawn(3) and not by `subprocess`, whose import costs more than the command: a start of a worker waits for both.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from contextlib import suppress

_SIGKILL, _SIGPIPE, _SIGXFSZ = 9, 13, 25  # Linux's numbers; the enumeration in `signal` costs half a millisecond
_OUTPUT_LIMIT = 1 << 16  # bytes of a command's output that are kept
_LOST = 256  # no exit status has this value
_LOST_REASON = "its exit status cannot be learnt: SIGCHLD is ignored, or another thread waits for every child"


def probe(argv: Sequence[str], timeout: float) -> str | None:
    """Return None if the command exits 0 within `timeout` seconds, else its last message and how it ended.

    If the kernel drops its exit status, as this process ignores SIGCHLD, output on stdout stands for success: let the
    last step of the command print. It is given no input, and a process group of its own, which is killed if it is late.
    """
    deadline = time.monotonic() + timeout
    pipes: list[tuple[int, int]] = []
    try:
        pipes.append(os.pipe())
        pipes.append(os.pipe())
        child = _start(argv, stdout=pipes[0][1], stderr=pipes[1][1])
    except OSError as refused:
        for read, _ in pipes:
            os.close(read)
        return f"cannot be executed: {refused.strerror}"
    finally:
        for _, write in pipes:
            os.close(write)
    status: int | None = None
    try:
        output, errors = _read([read for read, _ in pipes], deadline)
        status = _wait(child, deadline)
    finally:
        for read, _ in pipes:
            os.close(read)
        if status is None:  # late, or this thread was interrupted: a wrapper's own children must not stay behind
            with suppress(ProcessLookupError):
                os.killpg(child, _SIGKILL)
            _wait(child, deadline + 60)
    if status is None:
        return f"did not answer within {timeout:g} s"
    if status == 0 or (status == _LOST and output):
        return None
    how = _LOST_REASON if status == _LOST else f"signal {-status}" if status < 0 else f"exit status {status}"
    text = errors.decode(errors="replace")
    message = text.partition("usage:")[0].strip() or text.strip()  # numactl prints its usage after the message
    return f"{how}: {message.splitlines()[-1]}" if message else how


def _start(argv: Sequence[str], *, stdout: int, stderr: int) -> int:
    null = os.devnull
    return os.posix_spawnp(
        argv[0],
        list(argv),
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, stdout, 1),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ],
        setpgroup=0,
        setsigdef=[_SIGPIPE, _SIGXFSZ],  # which Python ignores, and a command would inherit
    )


def _read(pipes: Sequence[int], deadline: float) -> list[bytes]:
    """Return the end of what comes from each pipe until all are closed, as its writer's end does, or the deadline."""
    found = dict.fromkeys(pipes, b"")
    ready = select.poll()  # select(2) ends at descriptor 1023, which a server has long passed
    for pipe in pipes:
        ready.register(pipe, select.POLLIN)
    opened = len(pipes)
    while opened and (left := deadline - time.monotonic()) > 0:
        for pipe, _ in ready.poll(left * 1000):
            block = os.read(pipe, 4096)
            found[pipe] = (found[pipe] + block)[-_OUTPUT_LIMIT:]
            if not block:
                ready.unregister(pipe)
                opened -= 1
    return [found[pipe] for pipe in pipes]


def _wait(child: int, deadline: float) -> int | None:
    """Return its exit status, a signal's number below zero, _LOST, or None if the deadline comes first."""
    pause = 0.0001
    while True:
        try:
            ended, status = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:  # waitid(2), ECHILD
            return _LOST
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(pause)
        pause = min(pause * 2, 0.01)
