"""Become a command, bound. Without click, which is not needed for it: see `affinity.cli.main`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from affinity.cli import _validate

if TYPE_CHECKING:
    from affinity.host import Host

#: What shells exit with where a command is found and cannot be executed, and where it is not found.
CANNOT_EXECUTE, NOT_FOUND = 126, 127


def run(command: Sequence[str], *, gpu: str | None, node: int | None, host: Host) -> None:
    """Returns only by an error: AffinityError, or SystemExit with a shell's status."""
    from affinity.api import exec_command, plan
    from affinity.errors import AffinityError

    _validate.this_machine(host, "run")
    _validate.exactly_one_place(gpu, node, needed=True)
    _validate.node(host, node)
    planned = plan(gpu=gpu, node=node, launch_mode="command", settings=_validate.settings(), host=host)
    if planned.problem:
        print(f"affinity: not bound: {planned.problem}", file=sys.stderr)
    _executable(command[0])
    _reset_process_state()
    try:
        exec_command(command, planned)
    except AffinityError:
        raise
    except OSError as refused:
        if refused.errno == errno.ENOEXEC:  # a script without its first line: for the shell, as in execvp(3)
            exec_command(["/bin/sh", *command], planned)
        _exit_like_a_shell(command[0], refused)


def _executable(name: str) -> None:
    """Ends the process, as a shell would, where there is no such command: numactl in between could not tell."""
    places = [name] if "/" in name else [os.path.join(d, name) for d in os.get_exec_path()]
    found = [place for place in places if os.path.exists(place)]
    if not any(os.path.isfile(place) and os.access(place, os.X_OK) for place in found):
        code = errno.EACCES if found else errno.ENOENT
        _exit_like_a_shell(name, OSError(code, os.strerror(code)))


def _exit_like_a_shell(name: str, refused: OSError) -> NoReturn:
    missing = refused.errno == errno.ENOENT
    print(f"affinity: {name}: {'command not found' if missing else refused.strerror}", file=sys.stderr)
    sys.exit(NOT_FOUND if missing else CANNOT_EXECUTE)


def _reset_process_state() -> None:
    """Undo what the interpreter did to this process at its start: two ignored signals, and perhaps a locale.

    Python ignores SIGPIPE and SIGXFSZ (signal, "Python and signals"), which a command would inherit: `… | head` would
    not end it. In the C locale it sets LC_CTYPE (PEP 538).
    """
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if "LC_CTYPE" in os.environ:
        with open("/proc/self/environ", "rb") as born_with:
            if not any(line.startswith(b"LC_CTYPE=") for line in born_with.read().split(b"\0")):
                del os.environ["LC_CTYPE"]
