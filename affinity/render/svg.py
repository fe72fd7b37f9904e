"""A `Picture` as SVG: one file without scripts, fonts or links, with a text alternative and a tooltip for each box.

Text is set in a fixed-width font, so that the size of a box follows from its longest line. No element has an id:
several pictures may be in one page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

import attrs

from affinity.render.picture import Box, Kind, Mark, Picture

#: Width of a character and height of a line at the font size of `STYLE`; room inside and between boxes.
_CHARACTER, _LINE, _PAD, _GAP = 7.3, 17, 10, 10
#: A row of boxes is broken at this width, if it can be.
_WIDEST = {Kind.MACHINE: 1500, Kind.PACKAGE: 720, Kind.NODE: 660, Kind.PCI: 330, Kind.CACHE: 640}
_LONGEST = 46

#: Colours of Okabe and Ito (2008), lightened for areas; a misplaced process has a thick broken border as well.
STYLE = """
.picture text{font:12px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#111}
.picture text.title{font-weight:bold}
.picture text.mark{font-weight:bold}
.picture rect{stroke:#555;fill:#fff}
.picture .machine>rect{fill:#fff}
.picture .package>rect{fill:#f1f1f1}
.picture .node>rect{fill:#fff;stroke:#0072b2;stroke-width:1.5}
.picture .cache>rect{fill:#f7f7f7;stroke:#999}
.picture .cores>rect{fill:#dcf0fb;stroke:#56b4e9}
.picture .pci>rect{fill:#fafafa;stroke:#999}
.picture .gpu>rect{fill:#d3f0e6;stroke:#009e73}
.picture .nic>rect{fill:#fdf1d6;stroke:#e69f00}
.picture .process>rect{fill:#d9e9f5;stroke:#0072b2}
.picture .misplaced>rect{fill:#fbe3d3;stroke:#d55e00;stroke-width:3;stroke-dasharray:8 4}
.picture .misplaced>text.mark{fill:#a34700}
.picture .not-allowed>rect{stroke-dasharray:3 3}
.picture .not-allowed.cores>rect,
.picture .not-allowed.gpu>rect{fill:#e4e4e4;stroke:#777}
@media (prefers-color-scheme:dark){
.picture text{fill:#eee}
.picture rect{stroke:#999}
.picture .machine>rect{fill:#16181c}
.picture .package>rect{fill:#22252b}
.picture .node>rect{fill:#16181c;stroke:#56b4e9}
.picture .cache>rect{fill:#1e2126;stroke:#777}
.picture .cores>rect{fill:#123b52}
.picture .pci>rect{fill:#1e2126;stroke:#777}
.picture .gpu>rect{fill:#0b4636}
.picture .nic>rect{fill:#4d3600}
.picture .process>rect{fill:#0f3350;stroke:#56b4e9}
.picture .misplaced>rect{fill:#57270a;stroke:#ff8a3d}
.picture .misplaced>text.mark{fill:#ffb27d}
.picture .not-allowed.cores>rect,
.picture .not-allowed.gpu>rect{fill:#33363b;stroke:#999}}
"""


@attrs.frozen
class _Placed:
    """A box with its size and, for each child, its place inside."""

    box: Box
    lines: tuple[str, ...]
    width: float
    height: float
    children: tuple[tuple[float, float, _Placed], ...] = ()


def document(picture: Picture) -> str:
    """Return the file: an SVG document."""
    root = element(picture)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    style = ET.Element("style")
    style.text = STYLE
    root.insert(2, style)
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def element(picture: Picture) -> ET.Element:
    """Return the `svg` element, without `STYLE`."""
    placed = _placed(picture.box)
    width, height = placed.width + 2, placed.height + 2
    root = ET.Element(
        "svg",
        {
            "class": "picture",
            "role": "group",
            "aria-label": f"{picture.box.title}: {picture.summary}",
            "width": f"{width:g}",
            "height": f"{height:g}",
            "viewBox": f"0 0 {width:g} {height:g}",
        },
    )
    ET.SubElement(root, "title").text = f"{picture.box.title}: {picture.summary}"
    ET.SubElement(root, "desc").text = "\n".join(box.label for box in picture.box.walk())
    _draw(placed, 1, 1, root)
    return root


def _placed(box: Box) -> _Placed:
    """Return the size of a box: its text above, its children below in rows."""
    lines = tuple(part for line in box.text for part in _wrapped(line, _LONGEST if not box.children else 90))
    width = max(len(box.title), *map(len, lines), 8) * _CHARACTER + 2 * _PAD
    y = _PAD + _LINE * (1 + len(lines)) + (_GAP / 2 if box.children else 0)
    children: list[tuple[float, float, _Placed]] = []
    for row in _rows([_placed(child) for child in box.children], _WIDEST.get(box.kind, 640)):
        x, tallest = float(_PAD), max(child.height for child in row)
        for child in row:
            children.append((x, y, attrs.evolve(child, height=tallest)))
            x += child.width + _GAP
        width = max(width, x - _GAP + _PAD)
        y += tallest + _GAP
    placed = _Placed(box, lines, width, y - (_GAP if children else 0) + _PAD, tuple(children))
    return _stretched(placed, width)


def _stretched(placed: _Placed, width: float) -> _Placed:
    """Return a box with another width; a child that is alone in its row follows."""
    rows = [y for _, y, _ in placed.children]
    children = tuple(
        (x, y, _stretched(child, width - 2 * _PAD) if rows.count(y) == 1 else child) for x, y, child in placed.children
    )
    return attrs.evolve(placed, width=width, children=children)


def _rows(children: Sequence[_Placed], widest: float) -> list[list[_Placed]]:
    """Break children into rows; a new kind begins one, and neighbours of one kind have one width."""
    rows: list[list[_Placed]] = []
    equal = {
        kind: max(child.width for child in children if child.box.kind is kind)
        for kind in {child.box.kind for child in children}
    }
    used = 0.0
    for child in children:
        sized = _stretched(child, equal[child.box.kind])
        fits = used + _GAP + sized.width <= widest
        if rows and fits and rows[-1][-1].box.kind is child.box.kind:
            rows[-1].append(sized)
            used += _GAP + sized.width
        else:
            rows.append([sized])
            used = sized.width
    return rows


def _draw(placed: _Placed, x: float, y: float, parent: ET.Element) -> None:
    box = placed.box
    mark = {Mark.MISPLACED: " misplaced", Mark.NOT_ALLOWED: " not-allowed"}.get(box.mark, "")
    role = "group" if box.children else "img"
    group = ET.SubElement(parent, "g", {"class": box.kind.value + mark, "role": role, "aria-label": box.label})
    ET.SubElement(group, "title").text = box.reason or box.label
    size = {"width": f"{placed.width:g}", "height": f"{placed.height:g}"}
    ET.SubElement(group, "rect", {"x": f"{x:g}", "y": f"{y:g}", **size, "rx": "4"})
    for number, line in enumerate((box.title, *placed.lines), 1):
        at = {"x": f"{x + _PAD:g}", "y": f"{y + _PAD / 2 + number * _LINE:g}"}
        kind = {"class": "title"} if number == 1 else {"class": "mark"} if line == box.mark.value else {}
        ET.SubElement(group, "text", {**at, **kind}).text = line
    for left, top, child in placed.children:
        _draw(child, x + left, y + top, group)


def _wrapped(line: str, width: int) -> list[str]:
    """Break a line after spaces and commas."""
    lines = [""]
    for part in re.findall(r"[^ ,]*[ ,]*", line):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("  ")
        lines[-1] += part
    return [text.rstrip() for text in lines]
