"""Output on stdout: tables, and JSON for programs.

In a file or a pipe a table is as wide as its cells: a line for each row, and between two columns at least two spaces,
which no cell has (`awk -F '  +'`). On a terminal it fits the width: cells break after spaces and commas alone, and
columns that may be left out are, before anything else breaks.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence

_GAP = "  "
#: A column that may be left out is left out rather than narrower than this.
_LEAST = 24
_PART = re.compile(r"[^ ,]*[ ,]*")


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, optional: Sequence[str] = ()
) -> None:
    """Print a table and an empty line. optional: columns that a narrow terminal may lack, the first to go first."""
    print("\n".join(grid(title, columns, rows, optional=optional)), end="\n\n")


def matrix(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table whose columns are alike: on a narrow terminal as several, each with the first column."""
    cells = [list(map(_cell, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    room, start = terminal_width(), 1
    while start < len(columns):
        end, used = start, widths[0]
        while end < len(columns) and (end == start or room is None or used + len(_GAP) + widths[end] <= room):
            used += len(_GAP) + widths[end]
            end += 1
        table(title, [columns[0], *columns[start:end]], [[row[0], *row[start:end]] for row in cells])
        title, start = "", end


def grid(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, optional: Sequence[str] = ()
) -> list[str]:
    """Return the lines of a table. If a last column of texts is left out, each text is below it, with its rows."""
    room = terminal_width()
    cells = [list(columns), *(list(map(_cell, row)) for row in rows)]
    empty = [i for i, name in enumerate(columns) if name in optional and {row[i] for row in cells[1:]} == {"-"}]
    kept = [i for i in range(len(columns)) if room is None or i not in empty]
    missing = [columns.index(name) for name in optional if columns.index(name) in kept]
    while True:
        shown = [[row[i] for row in cells] for i in kept]
        widths = _widths(shown, [i in missing for i in kept], room)
        if widths is not None:
            break
        kept.remove(missing.pop(0))
    lines = wrapped(title) if title else []
    for number, row in enumerate(cells):
        broken = [_wrap(row[i], width) for i, width in zip(kept, widths, strict=True)]
        for line in range(max(map(len, broken))):
            parts = [(cell[line] if line < len(cell) else "").ljust(w) for cell, w in zip(broken, widths, strict=True)]
            lines.append(_bold(_GAP.join(parts).rstrip()) if number == 0 else _GAP.join(parts).rstrip())
    gone = [i for i in range(len(columns)) if i not in kept and (room is None or i not in empty)]
    if gone and gone[-1] == len(columns) - 1 and any(" " in row[gone[-1]] for row in cells[1:]):
        named: dict[str, list[str]] = {}
        for row in cells[1:]:
            named.setdefault(row[gone[-1]], []).append(row[0])
        for text, names in named.items():
            whose = f" ({', '.join(names)})" if len(named) > 1 else ""
            lines += wrapped(f"{columns[-1]}{whose}: {text}") if text != "-" else []
        gone.pop()
    if gone:
        lines += wrapped(f"(left out, this terminal is too narrow: {', '.join(columns[i] for i in gone)})")
    return lines


def terminal_width() -> int | None:
    """Return the columns of the terminal on stdout, None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _widths(columns: Sequence[Sequence[str]], optional: Sequence[bool], room: int | None) -> list[int] | None:
    """Return the width of each column, None if they do not fit into `room`, even though cells are broken."""
    widths = [max(map(len, column)) for column in columns]
    if room is None:
        return widths
    least = [max(len(part.rstrip(" ")) for cell in column for part in _PART.findall(cell)) for column in columns]
    least = [max(low, min(width, _LEAST)) if o else low for low, width, o in zip(least, widths, optional, strict=True)]
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - room
    while excess > 0:
        slack, widest = max((width - low, i) for i, (width, low) in enumerate(zip(widths, least, strict=True)))
        if slack <= 0:
            return None if any(optional) else widths
        widths[widest] -= 1
        excess -= 1
    return widths


def _wrap(cell: str, width: int) -> list[str]:
    """Return the lines of a cell, broken after spaces and commas alone."""
    lines = [""]
    for part in _PART.findall(cell):
        if lines[-1] and len(lines[-1]) + len(part.rstrip(" ")) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip(" ") for line in lines]


def _cell(value: object) -> str:
    """Return the text of a cell: never empty, on one line, without control characters and runs of spaces."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = "" if value is None else printable(str(value))
    return text or "-"


def ids(nodes: Iterable[int]) -> str:
    """Return numbers of nodes in the kernel's list format, "none" if there are none."""
    from affinity.topology.cpuset import NodeSet

    return str(NodeSet(nodes)) or "none"


def printable(text: str) -> str:
    """Return a text of one line; what would control the terminal is replaced (a command line is another user's)."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def json(value: object) -> None:
    """Print a value of affinity.render.serialize."""
    from json import dumps

    print(dumps(value, indent=2))


def line(text: str) -> None:
    """Print a text; on a terminal broken as the cells of a table are."""
    print("\n".join(wrapped(text)))


def lines(label: str, texts: Iterable[str]) -> None:
    """Print each distinct text on a line of its own, after the label."""
    for text in dict.fromkeys(texts):
        line(f"{label}: {text}")


def wrapped(text: str) -> list[str]:
    """Return the lines of a text: one, or as many as the terminal's width takes."""
    room = terminal_width()
    return [text] if room is None else _wrap(text, room)
