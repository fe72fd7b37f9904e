"""Pages: one file of HTML each, without scripts and without anything that is fetched, for light and dark.

`machine` is a `Picture` with its tables. Pages of clusters are made from the same elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any
from xml.etree import ElementTree as ET

from affinity.render import spread, svg
from affinity.render.picture import Mark, Picture, mark_of, memory, printable, size

Shape = Mapping[str, Any]
Row = Sequence[object]

#: A word of up to this many characters is not broken.
_WHOLE = 40

STYLE = """
:root{color-scheme:light dark;--line:#bbb;--head:#eee;--wrong:#a34700;--wrong-area:#fbe3d3;
--slow1:#fff3e0;--slow2:#fddfb5;--slow3:#f9bd77;--slow4:#f09a3e}
body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem auto;padding:0 1rem;max-width:1500px;background:#fff;color:#111}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:1.8rem 0 .4rem}p{margin:.3rem 0}
.scroll{overflow-x:auto;margin:.8rem 0}.scroll svg{display:block;max-width:max(100%,900px);height:auto}
table{border-collapse:collapse;font-size:13px}caption{text-align:left;font-weight:bold;padding:.3rem 0}
th,td{border:1px solid var(--line);padding:.2rem .5rem;text-align:left;vertical-align:top}
thead th{background:var(--head)}td{font-family:ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace}
tr.wrong td,tr.wrong th{background:var(--wrong-area)}.wrong>td:first-child,strong.wrong{color:var(--wrong)}
td.whole{white-space:nowrap}
.slow1{background:var(--slow1)}.slow2{background:var(--slow2)}.slow3{background:var(--slow3)}
.slow4{background:var(--slow4)}
summary{cursor:pointer;padding:.2rem 0}section{border-top:1px solid var(--line);margin-top:1.2rem}
@media (prefers-color-scheme:dark){
:root{--line:#555;--head:#2a2d33;--wrong:#ffb27d;--wrong-area:#57270a;
--slow1:#2b2418;--slow2:#463415;--slow3:#654710;--slow4:#8a5c05}body{background:#101216;color:#eee}}
"""


#: How many times the best of its row from which on a cell is shaded, darker each time.
_SLOW = (1.05, 1.2, 1.5, 2.0)


def machine(found: Picture, measured: Shape | None = None) -> str:
    """Return the page of one machine. measured: of `affinity bench --json`."""
    main = main_element(found.box.title, found.summary)
    if any(mark_of(p) is Mark.MISPLACED for p in found.processes):
        add_text(main, "p", "A misplaced process has a thick broken border and the mark ✗; its tooltip has the reason.")
    scrolling(main, "picture").append(svg.element(found))
    if found.processes:
        add_table(
            main,
            "Processes that use a GPU",
            ("state", "PID", "command", "GPU", "CPUs", "memory", "reason", "remedy"),
            [_process(p) for p in sorted(found.processes, key=lambda p: mark_of(p) is not Mark.MISPLACED)],
        )
    if found.plans:
        add_plans(main, found.plans)
    if measured is not None:
        _add_measurement(main, measured)
    add_list(main, "Notes", [*found.notes, *(measured or {}).get("notes", ())])
    return document(main, found.box.title)


# ---------------------------------------------------------------- rows


class Wrong(tuple[object, ...]):
    """A row that is to be seen first."""

    __slots__ = ()


def _process(p: Shape) -> Row:
    mark = mark_of(p)
    resident = p["resident"] or {}
    where = ", ".join(f"node {node}: {size(pages)}" for node, pages in resident.items() if pages)
    row = (
        mark.value, p["pid"], p["worker"] or " ".join(p["command"]), p["gpu"]["name"] if p["gpu"] else p["pci_bus_id"],
        p["cpus"], where, f"{p['locality']}: {p['reason']}", p["remedy"],
    )  # fmt: skip
    return Wrong(row) if mark is Mark.MISPLACED else row


def add_plans(parent: ET.Element, plans: Sequence[Shape]) -> None:
    """Add the table of plans, a row for each GPU."""
    rows = []
    for p in plans:
        applied = p["strategy"] != "noop" and not p["problem"]
        place = (p["cpus"], memory(p["memory"])) if applied else (None, None)
        reasons = (p["problem"] or p["reason"], p["placement_reason"] if applied else "")
        gpu = p["gpu"] or {}
        row = (", ".join(p["references"]), gpu.get("name"), gpu.get("model"), p["node"], *place, p["strategy"])
        rows.append((*row, "; ".join(filter(None, reasons))))
    columns = ("GPU", "address", "model", "node", "CPUs", "memory", "strategy", "reason")
    add_table(parent, f"Plan of policy {plans[0]['policy']}", columns, rows)


def _add_measurement(parent: ET.Element, measured: Shape) -> None:
    """Add a heat map of each quantity: a row for each place, a column for the memory of each node."""
    inside = section(parent, "Measured")
    add_text(inside, "p", measured["verdict"])
    steps = ", ".join(f"{step:g}" for step in _SLOW)
    add_text(inside, "p", f"Median ± half the range. Shaded: {steps} times as slow as the best of its row, or slower.")
    for grid in measured["grids"]:
        title = f"{grid['title']}, {grid['unit']}"
        columns = ("of", "node", *(f"memory of {node}" for node in measured["nodes"]))
        rows = []
        for row in grid["rows"]:
            cells = {node: median(samples) for node, samples in row["values"].items() if samples}
            best = (max if grid["higher_is_better"] else min)(cells.values())
            shown: list[object] = [row["place"], row["node"]]
            for node in map(str, measured["nodes"]):
                if node in cells:
                    slow = best / cells[node] if grid["higher_is_better"] else cells[node] / best
                    shown.append(Heat(spread(row["values"][node]), slow))
                else:
                    shown.append(None)
            rows.append(shown)
        add_table(inside, title, columns, rows)


class Heat(str):
    """The text of a cell, and how many times as slow as the best of its row it is."""

    __slots__ = ("slow",)
    slow: float

    def __new__(cls, text: str, slow: float) -> Heat:
        cell = super().__new__(cls, text)
        cell.slow = slow
        return cell

    @property
    def attributes(self) -> dict[str, str]:
        """Of the cell's element: its shade, and a tooltip."""
        step = sum(self.slow >= limit for limit in _SLOW)
        title = {"title": f"{self.slow:.3g} times as slow as the best of its row"} if step else {}
        return {"class": f"whole slow{step}" if step else "whole", **title}


# ---------------------------------------------------------------- elements


def main_element(title: str, summary: str) -> ET.Element:
    """Return the element that a page has its content in."""
    main = ET.Element("main")
    add_text(main, "h1", title)
    add_text(main, "p", summary)
    return main


def section(parent: ET.Element, title: str) -> ET.Element:
    """Add a section with a heading."""
    element = ET.SubElement(parent, "section", {"aria-label": printable(title)})
    add_text(element, "h2", title)
    return element


def add_text(parent: ET.Element, tag: str, text: object, **attributes: str) -> ET.Element:
    """Add an element with a text."""
    element = ET.SubElement(parent, tag, attributes)
    element.text = printable(str(text))
    return element


def scrolling(parent: ET.Element, label: str) -> ET.Element:
    """Add what scrolls by itself if it is wider than the window, by keyboard too."""
    return ET.SubElement(parent, "div", {"class": "scroll", "role": "region", "aria-label": label, "tabindex": "0"})


def add_table(parent: ET.Element, title: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Add a table; a cell without a value is `-`, and a column without any is left out."""
    lines = list(rows)
    used = [number for number in range(len(columns)) if any(line[number] not in (None, "") for line in lines)]
    table = ET.SubElement(scrolling(parent, title), "table")
    add_text(table, "caption", title)
    head = ET.SubElement(ET.SubElement(table, "thead"), "tr")
    for number in used:
        name = columns[number]
        add_text(head, "th", name, scope="col") if name else ET.SubElement(head, "td")
    body = ET.SubElement(table, "tbody")
    for line in lines:
        row = ET.SubElement(body, "tr", {"class": "wrong"} if isinstance(line, Wrong) else {})
        for number in used:
            cell = line[number]
            text = "-" if cell in (None, "") else str(cell)
            # A browser breaks a list of CPUs or an address at its hyphens.
            whole = {"class": "whole"} if len(text) <= _WHOLE and " " not in text else {}
            add_text(row, "td", text, **(cell.attributes if isinstance(cell, Heat) else whole))


def add_list(parent: ET.Element, title: str, texts: Sequence[str]) -> None:
    """Add a list with a heading, nothing if it is empty."""
    if texts:
        add_text(parent, "h2", title)
        items = ET.SubElement(parent, "ul")
        for text in texts:
            add_text(items, "li", text)


def document(main: ET.Element, title: str) -> str:
    """Return the page."""
    html = ET.Element("html", {"lang": "en"})
    head = ET.SubElement(html, "head")
    ET.SubElement(head, "meta", {"charset": "utf-8"})
    ET.SubElement(head, "meta", {"name": "viewport", "content": "width=device-width,initial-scale=1"})
    ET.SubElement(head, "link", {"rel": "icon", "href": "data:,"})  # else a browser asks the server for one
    add_text(head, "title", title)
    ET.SubElement(head, "style").text = STYLE + svg.STYLE
    ET.SubElement(html, "body").append(main)
    return "<!DOCTYPE html>\n" + ET.tostring(html, encoding="unicode", method="html") + "\n"
