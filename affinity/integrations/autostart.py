"""Bind a rank at the start of its interpreter, before its program: `AFFINITY_AUTOSTART=1`.

The file `zzz_numa_affinity.pth`, beside the package in site-packages, has one line, which calls `start` if the variable
is set. So `site` runs this in each Python process of the environment, and most of them are no ranks: launchers, helpers
of `multiprocessing`, children of ranks, pip. These are left alone. Its name sorts last: by then the other files have
added their folders to `sys.path`.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import traceback

#: Programs of this package and of pip.
_HELPERS = re.compile(r"affinity|pip[\d.]*|__pip-runner__\.py")


@functools.cache  # `site` runs the line once for each path of site-packages, such as lib64
def start() -> None:
    """Bind this process if a launcher started it as a rank.

    An error is a line on stderr and the process is unbound; under `AFFINITY_ENFORCE=required` the process ends with
    status 3. By `os._exit`, because `site` prints and ignores an exception, and nothing is there to be cleaned up.
    """
    try:
        _start()
    except Exception as error:
        from_us = type(error).__module__ == "affinity.errors"
        sys.stderr.write(f"affinity: {error}\n" if from_us else traceback.format_exc())
        sys.stderr.flush()
        os._exit(3)


def _start() -> None:
    try:
        if _is_rank() and _is_automatic():
            from affinity.integrations.engine import bind_worker

            bind_worker()
    except Exception as error:
        _log(error)


def _log(error: Exception) -> None:
    """Log the error of a process that starts unbound, and raise it under `required`."""
    try:
        from affinity.integrations.engine import errors_logged
    except ImportError as missing:  # an incomplete installation: `required` is parsed without the package
        if os.environ.get("AFFINITY_ENFORCE", "").strip().lower() == "required":
            raise
        remedy = f"install numa-affinity and what it requires in {sys.prefix}, or unset AFFINITY_AUTOSTART"
        sys.stderr.write(f"affinity: this process starts unbound: {missing}: {remedy}\n")
        return
    with errors_logged("this process starts unbound"):
        raise error


def _is_rank() -> bool:
    """Return whether a launcher gave this process a local rank or GPUs, and no process of the same rank is above it.

    A rank that is bound has a record in the environment, which its children inherit with the variables of the rank.
    """
    from affinity.errors import SettingsError
    from affinity.variables import AUTOSTART

    malformed = None
    try:
        if not AUTOSTART.read(os.environ[AUTOSTART.name].strip() or "0"):
            return False
    except SettingsError as error:
        malformed = error
    program = _program()
    # From Python 3.14 on, the fork server's program begins with another import.
    if program.removeprefix("import sys; ").startswith("from multiprocessing.") or _HELPERS.fullmatch(
        os.path.basename(program)
    ):
        return False
    from affinity.handoff import bound_ancestor
    from affinity.kernel.linux import THIS_PROCESS
    from affinity.launchers.detect import detect, is_launchers_own
    from affinity.plugins import Plugins

    launchers = Plugins().launchers
    if is_launchers_own(program, launchers):
        return False
    if malformed is not None:  # here, because a launcher reports it where a user sees it, or its ranks do
        raise malformed
    launch = detect(THIS_PROCESS, launchers, starter=bound_ancestor(THIS_PROCESS)).launch
    return launch.local_rank is not None or bool(launch.assigned)


def _is_automatic() -> bool:
    from affinity.settings import Settings

    return Settings.from_environ(os.environ).auto


def _program() -> str:
    """Return the file of the script, the name of the module or the text of `-c` that this interpreter is to run."""
    program = sys.orig_argv[-len(sys.argv)] if sys.argv else ""
    return re.sub(r"^-[A-Za-z]*?[cm]", "", program)  # `-mNAME` is one argument
