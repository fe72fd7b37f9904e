"""`affinity run`: run a command, by exec, bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from affinity.cli import _options, _run

if TYPE_CHECKING:
    from affinity.settings import Settings


@click.command(context_settings={"allow_interspersed_args": False})
@_options.gpu
@_options.node
@_options.overrides
@click.option("-v", "--verbose", is_flag=True, help="Print what is put in force, and why, on stderr.")
@click.argument("command", nargs=-1, required=True)
def command(*, gpu: str | None, node: int | None, settings: Settings, verbose: bool, command: tuple[str, ...]) -> None:
    """Run COMMAND, by exec, bound to the CPUs and the memory of a GPU's node, or of a given node.

    Without --gpu and --node, the GPUs are those of this process: of its launcher's rank, else all that are visible.

    The command replaces this process, so signals, exit status and standard streams are its own. Exit status 126 and
    127 are those of a shell. Degradations are reported on stderr.
    """
    _run.run(command, gpu=gpu, node=node, settings=settings, verbose=verbose)
