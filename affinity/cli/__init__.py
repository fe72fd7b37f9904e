"""The command `affinity`. Each command has its own file, imported when the command is called."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence

#: Those of write(2) that are the user's to mend.
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (default: `sys.argv`). Raise SystemExit, or replace this process (`affinity run`).

    Exit status: 2 for usage, a malformed setting or an unreadable file; 3 for a requirement that cannot be satisfied;
    74 if stdout cannot be written. If the reader of stdout has ended, the process ends by SIGPIPE. An AffinityError is
    printed as one message on stderr, never as a traceback.
    """
    if arguments is None:
        import gc

        gc.disable()  # no object lives long enough to be collected; the collector takes a tenth of the startup time
        arguments = sys.argv[1:]
    match list(arguments):
        # The form that starts workers in number is parsed without click, another tenth of the startup time.
        case ["run", "--node", node, "--", *command] if command and node.isascii() and node.isdecimal():
            _run_without_click(int(node), None, command)
        case ["run", "--gpu", gpu, "--", *command] if command:
            _run_without_click(None, gpu, command)
        case ["run", "--", *command] if command:
            _run_without_click(None, None, command)
        case rest:
            _run_with_click(rest)


def _run_with_click(arguments: list[str]) -> None:
    """Raise SystemExit. If stdout cannot be written, that is one message and status 74 (EX_IOERR of sysexits.h)."""
    from affinity.cli._commands import group

    status: str | int | None = None
    output = sys.stdout
    try:
        try:
            group.main(arguments, prog_name="affinity")
        except SystemExit as ended:
            status = ended.code
        if sys.stdout is not output:  # so click leaves it after this error, which it catches
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or error.errno not in _OUTPUT_ERRORS:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered is flushed once more at exit
        if error.errno == errno.EPIPE:  # the reader, as `head`, has seen enough: end as other programs do
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGPIPE)
        print(f"affinity: cannot write the output: {error.strerror}", file=sys.stderr)
        sys.exit(74)
    sys.exit(status)


def _run_without_click(node: int | None, gpu: str | None, command: list[str]) -> None:
    from affinity.cli._errors import report_error
    from affinity.cli._run import run
    from affinity.cli._validate import settings
    from affinity.errors import AffinityError

    try:
        run(command, gpu=gpu, node=node, settings=settings())
    except AffinityError as error:
        sys.exit(report_error(error))
    except KeyboardInterrupt:
        sys.exit(130)
