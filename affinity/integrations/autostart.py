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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from affinity.plugins import Plugins

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
        from affinity.integrations.engine import bind_worker, errors_logged
        from affinity.plugins import Plugins
        from affinity.settings import Settings
        from affinity.variables import AUTOSTART
    except ImportError as missing:
        _report_missing(missing)
        return
    with errors_logged("this process starts unbound"):
        if not AUTOSTART.read(os.environ[AUTOSTART.name].strip() or "0"):
            return
        plugins = Plugins()
        if _is_rank(plugins) and Settings.from_environ(os.environ).auto:
            bind_worker()


def _report_missing(missing: ImportError) -> None:
    """Report an incomplete installation. Raise the error under `required`, which is parsed without the package."""
    if os.environ.get("AFFINITY_ENFORCE", "").strip().lower() == "required":
        raise missing
    sys.stderr.write(
        f"affinity: this process starts unbound: {missing}: install numa-affinity and what it requires in "
        f"{sys.prefix}, or unset AFFINITY_AUTOSTART\n"
    )


def _is_rank(plugins: Plugins) -> bool:
    """Return whether a launcher gave this process a local rank or GPUs, and no process of the same rank is above it.

    A rank that is bound has a record in the environment, which its children inherit with the variables of the rank.
    """
    from affinity.handoff import bound_ancestor
    from affinity.kernel.linux import THIS_PROCESS
    from affinity.launchers.detect import detect, is_launchers_own

    program = _program()
    if program.startswith("from multiprocessing.") or _HELPERS.fullmatch(os.path.basename(program)):
        return False
    if is_launchers_own(program, plugins.launchers):
        return False
    launch = detect(THIS_PROCESS, plugins.launchers, starter=bound_ancestor(THIS_PROCESS)).launch
    return launch.local_rank is not None or bool(launch.assigned)


def _program() -> str:
    """Return the file of the script, the name of the module or the text of `-c` that this interpreter is to run."""
    return sys.orig_argv[-len(sys.argv)] if sys.argv else ""
