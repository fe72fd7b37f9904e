"""The pages of HTML in a real browser: nothing is fetched, no error, elements found by role; for a cluster too."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from xml.etree import ElementTree as ET

import attrs
import pytest
import schemas
from commands import called
from playwright.sync_api import Browser, Page, expect, sync_playwright
from test_draw import SMALL, of, with_processes

from affinity.integrations.ray import ActorAudit, NodeSurvey, pages
from affinity.render import page
from affinity.render.picture import picture

expect.set_options(timeout=30_000)  # on a machine that is busy with other tests
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


Open = Callable[..., Page]


@pytest.fixture
def show(browser: Browser, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Open a page; at the end it has fetched nothing and made no error. A screenshot is kept."""
    messages: list[str] = []
    fetched: list[str] = []
    kept = Path(os.environ.get("TOX_ENV_DIR", tmp_path)) / "screenshots"
    contexts = []

    def opened(html: str, **options: Any) -> Page:
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": 1300, "height": 900}, **options))
        shown = contexts[-1].new_page()
        shown.on("console", lambda message: messages.append(message.text))
        shown.on("pageerror", lambda error: messages.append(str(error)))
        shown.on("request", lambda asked: fetched.append(asked.url))
        shown.goto(file.as_uri())
        kept.mkdir(exist_ok=True, parents=True)
        name = re.sub(r"\W+", "-", request.node.name).strip("-")
        shown.screenshot(path=kept / f"{name}.png")
        assert (kept / f"{name}.png").stat().st_size > 1000
        return shown

    yield opened
    for context in contexts:
        context.close()
    assert messages == []
    assert {Path(unquote(urlparse(url).path)).name for url in fetched if not url.startswith("data:")} <= {"page.html"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_machine_with_a_misplaced_process(show: Open, scheme: str) -> None:
    """Its boxes and tables are found by role, its reason is a tooltip, and text has contrast with its background."""
    shown = show(page.machine(with_processes(0, 0)), color_scheme=scheme)
    expect(shown.get_by_role("heading", level=1)).to_have_text(f"synthetic {SMALL}")
    expect(shown.get_by_role("group", name="NUMA node 0")).to_be_visible()
    wrong = shown.get_by_role("img", name="✗ misplaced")
    expect(wrong).to_have_count(2)
    assert wrong.first.locator("title").text_content().startswith("remote: 3 of 3 threads")  # type: ignore[union-attr]
    row = shown.get_by_role("row", name="✗ misplaced")
    expect(row).to_have_count(1)
    expect(row.get_by_role("cell").nth(6)).to_contain_text("threads may run outside CPUs 8-15")
    expect(shown.get_by_role("row").nth(1)).to_contain_text("✗ misplaced")
    dark = scheme == "dark"
    assert brightness(shown, "document.body", "backgroundColor") < 60 if dark else 250
    for box in ("cores", "gpu", "nic", "process", "misplaced", "node"):
        text = brightness(shown, f"document.querySelector('.{box}>text')", "fill")
        area = brightness(shown, f"document.querySelector('.{box}>rect')", "fill")
        assert abs(text - area) > 120, box


def brightness(shown: Page, element: str, style: str) -> float:
    """How bright a colour of an element is, 0 to 255."""
    colour = shown.evaluate(f"getComputedStyle({element}).{style}")
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return 0.3 * red + 0.59 * green + 0.11 * blue


def test_a_misplaced_process_is_not_marked_by_colour_alone(show: Open) -> None:
    """Its border is broken and thicker too."""
    shown = show(page.machine(with_processes(0, 0)))
    styles = {
        name: shown.evaluate(
            f"(s => [s.strokeDasharray, s.strokeWidth])(getComputedStyle(document.querySelector('{name}>rect')))"
        )
        for name in (".process:not(.misplaced)", ".misplaced")
    }
    assert styles == {".process:not(.misplaced)": ["none", "1px"], ".misplaced": ["8px, 4px", "3px"]}


def test_without_javascript_the_page_is_the_same(show: Open) -> None:
    html = page.machine(of("dgx-h100", planned=True))
    assert "<script" not in html
    shown = show(html, java_script_enabled=False)
    expect(shown.get_by_role("img", name="GPU 7")).to_be_visible()
    expect(shown.get_by_role("table").get_by_role("row")).to_have_count(9)


@pytest.mark.parametrize("name", ["dgx-h100", "gb200", "dgx-a100"])
def test_the_text_of_each_box_is_inside_it(show: Open, name: str) -> None:
    """As the browser's font has it, and no text overlaps another box's."""
    shown = show(page.machine(of(name, planned=True)))
    outside = shown.evaluate(
        """[...document.querySelectorAll('svg text')].filter(text => {
            const [t, r] = [text, text.parentElement.querySelector('rect')].map(e => e.getBoundingClientRect())
            return t.left < r.left || t.right > r.right || t.top < r.top || t.bottom > r.bottom
        }).map(text => text.textContent)"""
    )
    assert outside == []


def test_markup_in_a_command_line_is_only_text(show: Open) -> None:
    found = with_processes(0, 0)
    rows = [{**row, "command": ["<img src=x onerror=alert(1)>\x00\x1b"]} for row in found.processes]
    shown = show(page.machine(picture(found.machine, [], rows)))
    expect(shown.get_by_role("cell", name="<img src=x").first).to_have_text("<img src=x onerror=alert(1)>\ufffd\ufffd")


# ---------------------------------------------------------------- clusters


def surveyed(host: str, machine: str = "dgx-h100", **more: object) -> NodeSurvey:
    found = of(machine, planned=True)
    return NodeSurvey(host, host, {**found.machine, **more}, found.plans)


def test_a_thousand_nodes_are_one_readable_page(show: Open) -> None:
    """997 alike, one with fewer CPUs, one of another model, and one that does not reply: these come first."""
    usual = surveyed("gpu0000")
    alike = [attrs.evolve(usual, node=f"{n:056x}", host=f"gpu{n:04}") for n in range(997)]
    narrowed = surveyed("gpu0997", allowed_cpus="8-223")
    other = surveyed("gpu0998", "gb200")
    silent = NodeSurvey("f" * 56, "gpu0999", None, error="no reply within 60 s")
    html = pages.survey([*alike[:500], other, narrowed, silent, *alike[500:]])
    assert len(html.encode()) < 200_000
    shown = show(html)
    expect(shown.get_by_text("1000 nodes, 3 kinds of machine and plan, 1 without a reply")).to_be_visible()
    expect(shown.get_by_role("table").first).to_contain_text("gpu0999")
    headings = shown.get_by_role("heading", level=2).all_text_contents()
    assert [heading.split(":")[0] for heading in headings] == ["≠ 1 node", "≠ 1 node", "997 nodes"]
    section = shown.get_by_role("region").filter(has=shown.get_by_text("gpu0997", exact=True)).first
    expect(section.get_by_role("table", name="Differs from most nodes")).to_contain_text("CPUs allowed8-2230-223")
    expect(shown.get_by_text("gpu[0000-0996]")).to_be_visible()


def test_what_changes_from_boot_to_boot_is_no_difference() -> None:
    """Free memory, a UUID, the path of a capture, a few pages that the kernel keeps."""
    first, second = surveyed("a1"), surveyed("a2", detail="elsewhere")
    assert second.machine is not None
    for node in second.machine["nodes"]:
        node["memory_free"] = 1 << 30
        node["memory"] -= 1 << 20
    for gpu in second.machine["gpus"]:
        gpu["uuid"] = "GPU-1"
    assert "1 kind of machine" in pages.survey([first, second])


def test_empty_nodes_of_another_model_are_one_row() -> None:
    """A GB200 tray among servers of another kind: its 28 nodes without CPUs and memory."""
    html = pages.survey([surveyed("a", "dgx-h100"), surveyed("b", "dgx-h100"), surveyed("c", "gb200")])
    assert html.count("nodes without CPUs and memory") == 1
    assert "3-9,11-17,19-25,27-33" in html
    assert "CPUs none, about 0 GiB" not in html


def test_nodes_that_all_differ_are_a_page_of_bounded_size() -> None:
    """As under a batch system that gives each node other CPUs, with a note on each."""
    usual = surveyed("gpu0000")
    assert usual.machine is not None
    nodes = [
        attrs.evolve(usual, host=f"gpu{n:04}", machine={**usual.machine, "allowed_cpus": f"{n}", "notes": [f"n {n}"]})
        for n in range(1000)
    ]
    html = pages.survey(nodes)
    assert len(html.encode()) < 5_000_000
    assert html.count("<svg") == 21
    assert html.count("<section") == 1000


def audited(host: str, number: int, pid: int, right: Any, wrong: Any) -> list[ActorAudit]:
    """The actors of a node: each with its GPU; `wrong` of them, if given, is misplaced."""
    row = wrong if wrong is not None else right
    return [
        ActorAudit(
            f"{number:032x}", f"Scheduler_{number}", host, host, pid, None, (row["gpu"],), row["threads"],
            0 if row["locality"] == "local" else 3, None, 0, None, row,
        )
    ]  # fmt: skip


def test_the_actors_of_a_thousand_nodes_are_one_page(show: Open) -> None:
    """8000 actors: two misplaced, one not read and one unknown come first, the others are one group."""
    right, wrong = with_processes(0, 0).processes
    actors = []
    for n in range(8000):
        actors += audited(f"gpu{n // 8:04}", n, 1000 + n, right, wrong if n in (17, 4242) else None)
    actors.append(ActorAudit("f" * 32, "Scheduler_8000", "gpu0999", "gpu0999", 0, None, error="no reply within 60 s"))
    actors += audited("gpu0999", 8001, 9999, right, {**right, "locality": "unknown", "reason": "no node is known"})
    html = pages.audit(actors, lambda a: [a.process["reason"]] if a.process else [])
    assert len(html.encode()) < 5_000_000
    shown = show(html)
    expect(shown.get_by_text("8002 actors on 1000 nodes, 3 misplaced or not read, 1 unknown")).to_be_visible()
    assert shown.get_by_role("heading", level=2).all_text_contents() == [
        "✗ 1 actor Scheduler_*: could not be read",
        "✗ 2 actors Scheduler_*: remote",
        "? 1 actor Scheduler_*: unknown",
        "✓ 7998 actors Scheduler_*: local",
    ]
    expect(shown.get_by_role("row", name="Scheduler_17 ")).to_contain_text("threads may run outside CPUs 8-15")
    expect(shown.get_by_role("row", name="Scheduler_8001 ")).to_contain_text("no node is known")
    expect(shown.get_by_text("on gpu[0000-0999]")).to_be_visible()


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["n1", "n2", "n3", "n5"], "n[1-3,5]"),
        (["n09", "n10", "n9"], "n9, n[09-10]"),
        (["10.0.0.7", "10.0.0.8"], "10.0.0.[7-8]"),
        (["r1-a", "r2-a", "login", "r1-b"], "r[1-2]-a, r1-b, login"),
        (["a", "a"], "a"),
        ([], ""),
    ],
)
def test_host_names_are_folded(names: list[str], folded: str) -> None:
    assert pages.hosts(names) == folded


MEASURED = {
    "version": 1,
    "nodes": [0, 1],
    "grids": [
        {
            "quantity": "to_gpu",
            "title": "Copies from pinned memory to the GPU",
            "unit": "GB/s",
            "higher_is_better": True,
            "rows": [
                {"place": "GPU a", "pci_bus_id": "0000:1b:00.0", "node": 0, "values": {"0": [50, 54], "1": [31, 33]}},
                {"place": "GPU b", "pci_bus_id": "0000:9a:00.0", "node": 1, "values": {"0": [], "1": [54, 54]}},
            ],
        },
        {
            "quantity": "latency",
            "title": "Latency of a load",
            "unit": "ns",
            "higher_is_better": False,
            "rows": [{"place": "CPUs of node 0", "pci_bus_id": None, "node": 0, "values": {"0": [100], "1": [210]}}],
        },
    ],
    "other_busy_cpus": 0.1,
    "notes": ["memory of node 2 is not measured"],
    "verdict": "copies to 2 GPUs are faster: bind",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_was_measured_is_a_heat_map(show: Open, scheme: str) -> None:
    """Slower than the best of its row is shaded, and readable; its tooltip has the ratio. What is missing is not."""
    schemas.check("bench", MEASURED)
    shown = show(page.machine(of(SMALL), MEASURED), color_scheme=scheme)
    measured = shown.get_by_role("region", name="Measured")
    expect(measured).to_contain_text("copies to 2 GPUs are faster: bind")
    expect(shown.get_by_role("listitem")).to_have_text(["memory of node 2 is not measured"])
    copies = measured.get_by_role("table", name="Copies from pinned memory to the GPU, GB/s").get_by_role("cell")
    expect(copies).to_have_text(["GPU a", "0", "52 ± 2", "32 ± 1", "GPU b", "1", "-", "54 ± 0"])
    loads = measured.get_by_role("table", name="Latency of a load, ns").get_by_role("cell")
    shades = [cells.nth(i).get_attribute("class") for cells, i in ((copies, 2), (copies, 3), (loads, 2), (loads, 3))]
    assert shades == ["whole", "whole slow3", "whole", "whole slow4"]
    expect(copies.nth(3)).to_have_attribute("title", "1.62 times as slow as the best of its row")
    for step in (3, 4):
        cell = f"document.querySelector('.slow{step}')"
        area, text = brightness(shown, cell, "backgroundColor"), brightness(shown, cell, "color")
        assert abs(area - text) > 120


def test_a_page_of_measurements_is_written_from_a_file(tmp_path: Path) -> None:
    """And what is no such file, or of another machine, is refused."""
    file, html = tmp_path / "m.json", tmp_path / "a.html"
    file.write_text(json.dumps(MEASURED))
    done = called("draw", "--synthetic", SMALL, "--bench", str(file), "-o", str(html))
    assert (done.returncode, done.stderr) == (0, f"wrote {html}\n")
    assert "52 ± 2" in html.read_text()
    for text, options, refused in (
        (json.dumps(MEASURED), ("--synthetic", "core:2 gpu:1", "-o", str(html)), "node 1 in it is not on this machine"),
        (json.dumps(MEASURED), ("--synthetic", SMALL, "-o", "a.svg"), "--bench is drawn on a page: give -o FILE.html"),
        (json.dumps({"version": 1, "runs": []}), ("--synthetic", SMALL, "-o", str(html)), "no grids of version 1"),
        ("{", ("--synthetic", SMALL, "-o", str(html)), "expected what `affinity bench --json` printed"),
    ):
        file.write_text(text)
        done = called("draw", "--bench", str(file), *options)
        assert done.returncode == 2
        assert refused in done.stderr
    done = called("draw", "--bench", str(tmp_path / "no"), "--synthetic", SMALL, "-o", str(html))
    assert "No such file or directory" in done.stderr


def test_a_page_has_valid_nesting() -> None:
    """It is well-formed as XML too, but for the elements that HTML never closes; each table has a caption."""
    html = page.machine(with_processes(0, 0))
    body = html[html.index("<main>") : html.index("</main>") + len("</main>")]
    root = ET.fromstring(body)
    assert all(table.find("caption") is not None for table in root.iter("table"))
    assert not [element for element in root.iter() if element.get("id") or element.get("src")]


def test_the_commands_write_pages(tmp_path: Path) -> None:
    """Another kind of file is refused before a cluster is looked for."""
    file = tmp_path / "a.html"
    done = called("draw", "--synthetic", SMALL, "--plan", "-o", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"wrote {file}\n")
    assert "Plan of policy node" in file.read_text()
    for command in ("survey", "audit"):
        done = called("ray", command, "-o", "a.svg")
        assert done.returncode == 2
        assert "-o a.svg: expected a name that ends in .html" in done.stderr
