"""Output on stdout: tables, and JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

#: Columns of a table that is written to a file or a pipe, which have no terminal width.
WIDE = 200


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; text is printed unchanged, without interpreting markup."""
    show(grid(title, columns, rows))


def show(renderable: RenderableType) -> None:
    """Print what `rich` renders: as wide as the terminal, into a file or a pipe WIDE columns."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else WIDE, highlight=False).print(renderable)


def grid(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table of text."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(_cell(value)) for value in row))
    return made


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or str(value) == "" else str(value)


def json(value: object) -> None:
    """Print a value of affinity.render.serialize."""
    from json import dumps

    print(dumps(value, indent=2))


def lines(label: str, texts: Iterable[str]) -> None:
    """Print each distinct text on a line of its own, after the label."""
    for text in dict.fromkeys(texts):
        print(f"{label}: {text}")
