"""A piece of work in a process of its own, confined as a container or a batch system confines one.

A fork each: in an emulated machine, a new interpreter takes ten seconds until it has imported what it needs.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import seccomp

from affinity.cli import main

CGROUPS = Path("/sys/fs/cgroup")


@contextmanager
def cpuset(cpus: str = "", mems: str = "") -> Iterator[Path]:
    """A control group (version 2) with these CPUs and memory nodes; an empty text allows all."""
    group = Path(tempfile.mkdtemp(prefix="test-", dir=CGROUPS))
    try:
        for name, text in (("cpus", cpus), ("mems", mems)):
            if text:
                (group / f"cpuset.{name}").write_text(text)
        yield group
    finally:
        for _ in range(200):  # multiprocessing's resource tracker outlives its parent a little
            if not (group / "cgroup.procs").read_text():
                break
            time.sleep(0.05)
        group.rmdir()


def confined(
    work: Callable[[], Any],
    cpus: str = "",
    mems: str = "",
    *,
    user: int = 0,
    mask: set[int] | None = None,
    **environ: str,
) -> Any:
    """What `work` gives (as JSON has it), run in a fork within such a control group.

    user: that it runs as. mask: its CPUs, as taskset or Slurm set them. environ: variables of its own.
    """
    with cpuset(cpus, mems) as group:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _answer(work, group, write, user=user, mask=mask, environ=environ)
        os.close(write)
        with open(read, encoding="utf-8") as printed:
            answer = json.loads(printed.read())
        os.waitpid(pid, 0)
        if isinstance(answer, dict) and "traceback" in answer:
            raise AssertionError(answer["traceback"])
        return answer


def _answer(
    work: Callable[[], Any], group: Path, write: int, *, user: int, mask: set[int] | None, environ: dict[str, str]
) -> None:
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        os.environ.update(environ)
        if mask is not None:
            os.sched_setaffinity(0, mask)
        if user:
            os.setresuid(user, user, user)
        answer = work()
    except BaseException:
        answer = {"traceback": traceback.format_exc()}
    with open(write, "w", encoding="utf-8") as printed:
        json.dump(answer, printed)
    os._exit(0)


def affinity_command(*words: str, refused: Sequence[str] = (), **environ: str) -> subprocess.CompletedProcess[str]:
    """What `affinity WORDS` prints and its status; refused: calls that fail with EPERM."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        pid = os.fork()
        if pid == 0:
            _run_command(words, out, errors, refused, environ)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for printed in (out, errors):
            printed.seek(0)
        return subprocess.CompletedProcess(words, status, out.read(), errors.read())


def _run_command(
    words: Sequence[str], out: IO[str], errors: IO[str], refused: Sequence[str], environ: dict[str, str]
) -> None:
    status: Any = 1
    try:
        sys.stdout, sys.stderr = out, errors
        os.environ.update(environ)
        if refused:
            seccomp.refuse(errno.EPERM, list(refused))
        main(words)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc(file=errors)
    out.flush()
    errors.flush()
    os._exit(status)
