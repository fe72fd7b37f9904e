"""`affinity run`: become a command, bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from affinity.cli import _options, _run

if TYPE_CHECKING:
    from affinity.host import Host


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
    _run.run(command, gpu=gpu, node=node, host=host)
