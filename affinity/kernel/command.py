"""Run a command to its end, only to learn whether it works.

By posix_spawn(3) and not by `subprocess`, whose import costs more than the command: a start of a worker waits for both.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence

_SIGKILL, _SIGPIPE, _SIGXFSZ = 9, 13, 25  # Linux's numbers; the enumeration in `signal` costs half a millisecond
_STDERR_LIMIT = 1 << 16  # bytes of a complaint that are kept


def probe(argv: Sequence[str], timeout: float) -> str | None:
    """None where the command exits 0 within `timeout` seconds, else what it said and how it ended.

    It is given no input, and a process group of its own, which is killed where it is late.
    """
    deadline = time.monotonic() + timeout
    read, write = os.pipe()
    try:
        child = _start(argv, write)
    except OSError as refused:
        os.close(read)
        return f"cannot be executed: {refused.strerror}"
    finally:
        os.close(write)
    status: int | None = None
    try:
        said = _read_stderr(read, deadline)
        status = _wait(child, deadline)
    finally:
        os.close(read)
        if status is None:  # late, or this thread was interrupted: a wrapper's own children must not stay behind
            os.killpg(child, _SIGKILL)
            _wait(child, deadline + 60)
    if status is None:
        return f"did not answer within {timeout:g} s"
    if status == 0:
        return None
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    told = said.partition("usage:")[0].strip() or said.strip()  # numactl explains itself after its complaint
    return f"{how}: {told.splitlines()[-1]}" if told else how


def _start(argv: Sequence[str], stderr: int) -> int:
    null = os.devnull
    return os.posix_spawnp(
        argv[0],
        list(argv),
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ],
        setpgroup=0,
        setsigdef=[_SIGPIPE, _SIGXFSZ],  # which Python ignores, and a command would inherit
    )


def _read_stderr(stderr: int, deadline: float) -> str:
    """What it writes until it closes its stderr, which its end does; not longer than the deadline."""
    said = b""
    ready = select.poll()  # select(2) ends at descriptor 1023, which a server has long passed
    ready.register(stderr, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0 and ready.poll(left * 1000):
        block = os.read(stderr, 4096)
        if not block:
            break
        said = (said + block)[-_STDERR_LIMIT:]
    return said.decode(errors="replace")


def _wait(child: int, deadline: float) -> int | None:
    """Its exit status, or a signal's number below zero; None where the deadline comes first."""
    pause = 0.0001
    while True:
        try:
            ended, status = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:  # somebody ignores SIGCHLD or waits for every child: its status is lost
            return 0
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(pause)
        pause = min(pause * 2, 0.01)
