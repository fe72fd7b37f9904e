"""Tables for people and JSON for programs, both on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

#: Columns of a table that goes to a file or a pipe, where no terminal says how wide it is.
WIDE = 200


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; text is shown as it is, nothing in it is markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(_cell(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else WIDE, highlight=False).print(made)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or str(value) == "" else str(value)


def json(value: object) -> None:
    """Print a value of affinity.render.serialize."""
    from json import dumps

    print(dumps(value, indent=2))


def lines(label: str, told: Iterable[str]) -> None:
    """Print each different text once, after its label."""
    for text in dict.fromkeys(told):
        print(f"{label}: {text}")
