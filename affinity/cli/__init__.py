"""The command `affinity`. One file a command; a file is read when its command is called, and not before."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click


class Commands(click.Group):
    """The files beside this one, each with a click object `command`; `new_plugin.py` is `new-plugin`.

    Exit status: 2 for usage, a malformed setting and what cannot be read; 3 for what cannot be satisfied. An error
    of this package is one message on stderr, never a traceback.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        files = (name for directory in __path__ for name in os.listdir(directory))
        return sorted(n[:-3].replace("_", "-") for n in files if n.endswith(".py") and not n.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name.replace('-', '_')}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        from affinity.errors import AffinityError, CannotBind

        try:
            return super().invoke(ctx)
        except AffinityError as error:
            print(f"affinity: {error}", file=sys.stderr)
            ctx.exit(3 if isinstance(error, CannotBind) else 2)


def _version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from affinity import __version__

        click.echo(f"affinity {__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def main() -> None:
    """Put GPU workers on the CPUs and the memory next to their GPU."""
