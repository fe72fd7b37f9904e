"""The installed command on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess

from commands import COMMAND

_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal(*arguments: str, columns: int, program: tuple[str, ...] = (COMMAND,), **more: str) -> str:
    """Return what `affinity ARGUMENTS` prints on a terminal of so many columns, without bold type."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "COLUMNS": str(columns), **more}
    with subprocess.Popen([*program, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environ):
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 1 << 16):
                text += part
        except OSError:  # EIO: the command has ended
            pass
    os.close(ours)
    return _STYLE.sub("", text.decode()).replace("\r\n", "\n")
