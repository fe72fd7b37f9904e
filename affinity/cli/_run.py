"""`affinity run` without click, which `affinity.cli.main` avoids importing."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from affinity.cli import _validate

if TYPE_CHECKING:
    from affinity.api import Plan
    from affinity.settings import Settings

#: Exit status of a shell if a command cannot be executed, and if it is not found (POSIX.1, "Exit Status for Commands").
CANNOT_EXECUTE, NOT_FOUND = 126, 127


def run(
    command: Sequence[str], *, gpu: str | None, node: int | None, settings: Settings, verbose: bool = False
) -> None:
    """Replace this process with `command`, bound. Raise AffinityError, or SystemExit with the status of a shell.

    Without a GPU and a node, the GPUs are those that `affinity.bind()` in this process would bind it to.
    """
    from affinity.api import exec_command, plan
    from affinity.errors import AffinityError

    _validate.one_place(gpu, node)
    planned = plan(gpu=gpu, node=node, launch_mode="command", settings=settings)
    if planned.problem:
        print(f"affinity: not bound: {planned.problem}", file=sys.stderr)
    elif verbose:
        _report_plan(planned)
    elif gpu is None and node is None and not planned.observation.stays:
        _report_chosen_gpus(planned)
    _check_executable(command[0])
    _reset_process_state()
    try:
        exec_command(command, planned)
    except AffinityError:
        raise
    except OSError as refused:
        if refused.errno == errno.ENOEXEC:  # a script without a `#!` line is run by the shell, as in execvp(3)
            exec_command(["/bin/sh", *command], planned)
        _exit_like_a_shell(command[0], refused)


def _report_plan(planned: Plan) -> None:
    """Print on stderr what is put in force, and why."""
    from affinity.report.log import describe

    selection, placement = planned.selection, planned.placement
    applied = placement if selection.strategy != "noop" else None
    done = "not bound" if applied is None else f"bound {describe(selection.strategy, applied, planned.launch)}"
    reasons = [selection.reason, *([applied.reason] if applied is not None else []), *planned.launch.notes]
    print(f"affinity: {done} ({'; '.join(filter(None, reasons))})", file=sys.stderr)


def _report_chosen_gpus(planned: Plan) -> None:
    """Print one line on stderr if several GPUs were chosen, none is there, or the choice is open to doubt.

    Raise BindError if no GPU is there and binding is required. Print nothing if binding is off.
    """
    from affinity.errors import BindError

    launch, settings, selection = planned.launch, planned.observation.settings, planned.selection
    logged = planned.observation.warnings  # at the start of the command
    notes = "; ".join(note for note in dict.fromkeys(launch.notes) if note not in logged)
    notes = f" ({notes})" if notes else ""
    if selection.strategy == "noop" and not settings.auto:
        return
    if not launch.gpus and launch.nodes is None:
        problem = f"no GPU is visible to this process{notes}: put --gpu REF or --node N before the command"
        if settings.required:
            raise BindError(f"required, but {problem}")
        print(f"affinity: not bound: {problem}", file=sys.stderr)
    elif len(launch.gpus) > 1 or notes:
        where = planned.placement.summary if planned.placement else ""
        if selection.strategy == "noop":
            where = f"not bound: {selection.reason}"
        print(f"affinity: {', '.join(map(str, launch.gpus or [launch.nodes]))}: {where}{notes}", file=sys.stderr)


def _check_executable(name: str) -> None:
    """Exit like a shell if the command cannot be executed: under numactl the exit status would be numactl's."""
    paths = [name] if "/" in name else [os.path.join(d, name) for d in os.get_exec_path()]
    existing = [path for path in paths if os.path.exists(path)]
    if not any(os.path.isfile(path) and os.access(path, os.X_OK) for path in existing):
        code = errno.EACCES if existing else errno.ENOENT
        _exit_like_a_shell(name, OSError(code, os.strerror(code)))


def _exit_like_a_shell(name: str, error: OSError) -> NoReturn:
    missing = error.errno == errno.ENOENT
    print(f"affinity: {name}: {'command not found' if missing else error.strerror}", file=sys.stderr)
    sys.exit(NOT_FOUND if missing else CANNOT_EXECUTE)


def _reset_process_state() -> None:
    """Restore SIGPIPE, SIGXFSZ and LC_CTYPE, which the interpreter changed at startup.

    Python ignores SIGPIPE and SIGXFSZ (library reference, `signal`), and a command would inherit that: `… | head`
    would not end it. In the C locale Python sets LC_CTYPE (PEP 538).
    """
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if "LC_CTYPE" in os.environ:
        with open("/proc/self/environ", "rb") as initial:
            if not any(line.startswith(b"LC_CTYPE=") for line in initial.read().split(b"\0")):
                del os.environ["LC_CTYPE"]
