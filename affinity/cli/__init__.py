"""The command `affinity`. One file a command; a file is read when its command is called, and not before."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (default: this process's own). Ends in SystemExit, or as the command of `affinity run`.

    Exit status: 2 for usage, a malformed setting and what cannot be read; 3 for what cannot be satisfied. An error
    of this package is one message on stderr, never a traceback.
    """
    if arguments is None:
        import gc

        gc.disable()  # nothing here lives long enough to be collected, and looking for it is a tenth of the start
        arguments = sys.argv[1:]
    match list(arguments):
        # The form that starts workers by the dozen is understood without click, another tenth of the start.
        case ["run", "--node", node, "--", *command] if command and node.isascii() and node.isdecimal():
            _run_without_click(int(node), None, command)
        case ["run", "--gpu", gpu, "--", *command] if command:
            _run_without_click(None, gpu, command)
        case others:
            from affinity.cli._commands import group

            group.main(others, prog_name="affinity")


def _run_without_click(node: int | None, gpu: str | None, command: list[str]) -> None:
    from affinity.cli._errors import report_error
    from affinity.cli._run import run
    from affinity.errors import AffinityError
    from affinity.host import Host

    try:
        run(command, gpu=gpu, node=node, host=Host.live())
    except AffinityError as error:
        sys.exit(report_error(error))
    except KeyboardInterrupt:
        sys.exit(130)
