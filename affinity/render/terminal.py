"""A `Picture` in a terminal: nested panels that fit its width."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from affinity.render.picture import Box, Kind, Mark, Picture

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Columns of a file or a pipe.
WIDTH = 100
#: A box of text is at most this wide if it shares its row.
_WIDEST = 46
_COLOURS = {
    Kind.PACKAGE: "white", Kind.NODE: "blue", Kind.CACHE: "white", Kind.CORES: "cyan", Kind.PCI: "white",
    Kind.GPU: "green", Kind.NIC: "yellow", Kind.PROCESS: "blue",
}  # fmt: skip


def drawing(picture: Picture, width: int | None = None) -> str:
    """Return a picture as lines of text. width: the terminal's; for a file or a pipe `WIDTH`, without colour."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.width = width or (console.width if console.is_terminal else WIDTH)
    with console.capture() as captured:
        console.print(_rendered(picture.box, console.width))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _rendered(box: Box, width: int) -> RenderableType:
    """Return a box as a panel; its leaves side by side, as many as fit."""
    from rich import box as borders
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    inner = width - 4
    parts: list[RenderableType] = []
    misplaced, barred = box.mark is Mark.MISPLACED, box.mark is Mark.NOT_ALLOWED
    style = "bold red" if misplaced else "dim" if barred else _COLOURS.get(box.kind, "")
    if box.children:
        parts += [Text(", ".join(box.text))] if box.text else []
    else:
        parts += [Text(line, style="bold red" if line == box.mark.value and misplaced else "") for line in box.text]
    # Neighbours of one kind are side by side if they are small; a PCI switch is as wide as what is below it.
    for _, run in itertools.groupby(box.children, key=lambda child: (child.kind, _least(child) is None)):
        children = list(run)
        least = [_least(child) for child in children]
        widest = max(inner if width is None else width for width in least)
        parts += _rows(children, inner, 1 if box.kind is Kind.PCI else max(1, min(len(children), inner // widest)))
    border = borders.HEAVY if misplaced else borders.ROUNDED if not box.children else borders.SQUARE
    return Panel(Group(*parts), title=Text(box.title), title_align="left", border_style=style, box=border, width=width)


def _least(box: Box) -> int | None:
    """Return the columns that a box needs, None if it takes all there are."""
    if box.children and box.kind is not Kind.PCI:
        return None
    widths = (len(box.title) + 6, *(len(line) + 4 for line in box.text), *(4 + (_least(c) or 0) for c in box.children))
    return min(max(widths), _WIDEST)


def _rows(boxes: list[Box], width: int, count: int) -> list[RenderableType]:
    """Return boxes of one width, so many in a row."""
    from rich.table import Table

    rows: list[RenderableType] = []
    for start in range(0, len(boxes), count):
        table = Table.grid(padding=0)
        table.add_row(*(_rendered(box, width // count) for box in boxes[start : start + count]))
        rows.append(table)
    return rows
