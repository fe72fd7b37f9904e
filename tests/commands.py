"""The installed command, run as a user runs it."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import schemas

from affinity.cli import main

#: The console script of the environment that the tests run in.
COMMAND = str(Path(sys.executable).parent / "affinity")


def affinity(
    *arguments: str, prefix: tuple[str, ...] = (), stdin: str = "", environ: dict[str, str] | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """`affinity ARGUMENTS`, after `prefix`; `more` is added to the environment, `environ` replaces it."""
    return subprocess.run(
        [*prefix, COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**(os.environ if environ is None else environ), **more},
    )


def called(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, ten times as fast: for what is only printed."""
    out, err = io.StringIO(), io.StringIO()
    status: object = 0
    with mock.patch.dict(os.environ, more), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as ended:
            status = ended.code or 0
    assert isinstance(status, int)
    return subprocess.CompletedProcess(list(arguments), status, out.getvalue(), err.getvalue())


def printed(*arguments: str, **more: str) -> Any:
    """What `affinity ARGUMENTS --json` prints."""
    done = called(*arguments, "--json", **more)
    assert done.returncode == 0, done.stderr
    return schemas.load(arguments[0], done.stdout)
