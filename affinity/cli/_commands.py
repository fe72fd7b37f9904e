"""The click group of the commands, which are the files of this folder."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import click

from affinity.cli._errors import report_error

#: What the list of commands shows, in the room that 80 columns leave. Others are cut out of the docstring.
_SUMMARIES = {
    "attach": "Bind processes that run to CPUs and memory of their GPU.",
    "bench": "Measure what nodes are worth, for the server or a command.",
    "demo": "Start and bind real workers, and show their state.",
    "doctor": "Check what refuses or weakens a binding, with remedies.",
    "draw": "Draw the machine, a plan, and the processes of GPUs.",
    "explain": "Show which rule chooses the strategy, and each setting.",
    "gather": "Write this machine's topology to an archive.",
    "machines": "List the named machines for --machine.",
    "new-plugin": "Write a plugin distribution to begin with.",
    "plan": "Show what each GPU's worker would be given.",
    "ps": "List the processes that use a GPU, misplaced ones marked.",
    "run": "Run a command bound to CPUs and memory of its GPU.",
    "show": "Show nodes, CPUs, caches, GPUs and network adapters.",
    "strategies": "List the installed plugins, and what they can do here.",
    "watch": "Bind each process that begins to use a GPU.",
}


class Commands(click.Group):
    """Group of the files in this folder, each with a click object `command`; `new_plugin.py` is `new-plugin`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        files = os.listdir(os.path.dirname(__file__))
        return sorted(n[:-3].replace("_", "-") for n in files if n.endswith(".py") and not n.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"affinity.cli.{cmd_name.replace('-', '_')}").command
        command.name = cmd_name  # the documentation shows it
        command.short_help = _SUMMARIES.get(cmd_name, command.short_help)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from affinity.variables import suggestion

        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as unknown:
            near = suggestion(args[0], self.list_commands(ctx))
            raise click.UsageError(unknown.message.rstrip(".") + near, ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        from affinity.errors import AffinityError

        try:
            return super().invoke(ctx)
        except AffinityError as error:
            ctx.exit(report_error(error))


def _version(ctx: click.Context, _parameter: click.Parameter, requested: bool) -> None:
    if requested:
        from affinity import __version__

        click.echo(f"affinity {__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def group() -> None:
    """Put GPU workers on the CPUs and the memory next to their GPU."""
