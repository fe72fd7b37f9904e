"""The command `affinity`. Each command has its own file, imported when the command is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (default: `sys.argv`). Raise SystemExit, or replace this process (`affinity run`).

    Exit status: 2 for usage, a malformed setting or an unreadable file; 3 for a requirement that cannot be satisfied.
    An AffinityError is printed as one message on stderr, never as a traceback.
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
            from affinity.cli._commands import group

            group.main(rest, prog_name="affinity")


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
