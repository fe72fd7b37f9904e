"""Values that a shell completes for an option. Of text that lists several, the part after the last comma."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _complete(values: Callable[[click.Context], Iterable[tuple[str, str]]]) -> Complete:
    """Return the callback for an option. values: each value, and what a shell that can shows beside it."""

    def complete(context: click.Context, _parameter: click.Parameter, text: str) -> list[CompletionItem]:
        from affinity.errors import AffinityError

        before, comma, begun = text.rpartition(",")
        try:
            found = [
                CompletionItem(before + comma + v, help=shown) for v, shown in values(context) if v.startswith(begun)
            ]
        except AffinityError:  # as of a malformed variable: the command itself reports it
            found = []
        return found

    return complete


@_complete
def machines(_context: click.Context) -> Iterable[tuple[str, str]]:
    from affinity.testing import machines

    return ((name, machines.get(name).source) for name in machines.names())


@_complete
def gpus(context: click.Context) -> Iterable[tuple[str, str]]:
    """Of the machine that the command line names before."""
    from affinity.cli import _validate
    from affinity.observe import observe
    from affinity.plugins import Plugins

    given = (context.params.get(option) for option in ("root", "machine", "synthetic"))
    launch = observe(Plugins(), gpu="all", host=_validate.host(*given)).launch
    return (("all", "every visible GPU"), *((launch.reference(gpu), f"{gpu} {gpu.model}") for gpu in launch.gpus))


@_complete
def policies(_context: click.Context) -> Iterable[tuple[str, str]]:
    from affinity.plugins import Plugins

    return ((name, "") for name in Plugins().policies.names())


@_complete
def strategies(_context: click.Context) -> Iterable[tuple[str, str]]:
    from affinity.plugins import Plugins

    return ((name, "") for name in ("auto", *Plugins().strategies.names()))


@_complete
def memory(_context: click.Context) -> Iterable[tuple[str, str]]:
    from affinity.variables import VARIABLES

    return ((word.strip(), "") for v in VARIABLES if v.field == "memory" for word in v.accepted.split(","))


@_complete
def launch_modes(_context: click.Context) -> Iterable[tuple[str, str]]:
    from affinity.launchers.launch import LaunchMode
    from affinity.plugins import Plugins

    return ((name, "") for name in dict.fromkeys((*(m.value for m in LaunchMode), *Plugins().launchers.names())))
