"""`affinity run`: become a command, bound."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from affinity.cli import _options

if TYPE_CHECKING:
    from affinity.host.host import Host

#: What shells exit with where a command is found and cannot be executed, and where it is not found.
CANNOT_EXECUTE, NOT_FOUND = 126, 127


@click.command(context_settings={"allow_interspersed_args": False})
@_options.gpu
@_options.node
@_options.machine
@click.argument("command", nargs=-1, required=True)
def command(*, gpu: str | None, node: int | None, host: Host, command: tuple[str, ...]) -> None:
    """Become COMMAND, bound to the CPUs and the memory next to a GPU, or of a node.

    No process is left in between: signals, exit status and standard streams are the command's own. Exit status 126
    and 127 as from a shell. What could not be put in force is told on stderr.
    """
    from affinity.api import become, plan

    _options.not_here(host, "run")
    _options.one_of(gpu, node, needed=True)
    _options.known_node(host, node)
    planned = plan(gpu=gpu, node=node, launch_mode="command", settings=_options.settings(), host=host)
    if planned.problem:
        print(f"affinity: not bound: {planned.problem}", file=sys.stderr)
    _executable(command[0])
    try:
        become(command, planned)
    except OSError as refused:
        _fail(command[0], refused)


def _executable(name: str) -> None:
    """Ends the process, as a shell would, where there is no such command: numactl in between could not tell."""
    places = [name] if "/" in name else [os.path.join(d, name) for d in os.get_exec_path()]
    found = [place for place in places if os.path.exists(place)]
    if not any(os.path.isfile(place) and os.access(place, os.X_OK) for place in found):
        _fail(name, OSError(errno.EACCES if found else errno.ENOENT, "Permission denied" if found else ""))


def _fail(name: str, refused: OSError) -> NoReturn:
    missing = refused.errno == errno.ENOENT
    why = "command not found" if missing else refused.strerror
    print(f"affinity: {name}: {why}", file=sys.stderr)
    sys.exit(NOT_FOUND if missing else CANNOT_EXECUTE)
