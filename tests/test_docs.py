"""The documentation shows what the code does."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from affinity.selection.rules import RULES
from affinity.variables import ALIASES, VARIABLES

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """Every relative link names a file or a folder that is there."""
    for target in re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_prose_fits_120_columns(page: Path) -> None:
    """What is no table, picture, code or single word."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    long = [line for line in prose.splitlines() if len(line) > 120 and not line.startswith(("|", "![", "    "))]
    assert [line for line in long if " " in line[:120].strip()] == []


def test_the_settings_page_has_every_variable() -> None:
    """With the words that its error message uses."""
    text = (ROOT / "docs/reference/settings.md").read_text()
    for variable in (*VARIABLES, *ALIASES):
        accepted = variable.accepted.replace("|", r"\|")
        assert f"| `{variable.name}` | {accepted} | {variable.meaning} |" in text


@pytest.mark.parametrize("number", [0, 1])
def test_the_readmes_examples_run(number: int, tmp_path: Path) -> None:
    """As a file, with GPUs standing in for those this machine does not have. (Ray's is in tests/ray.)"""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    program = tmp_path / "example.py"
    program.write_text(blocks[number])
    command = ["env", "AFFINITY_NODES=0,0,0,0,0,0,0,0", "AFFINITY_DEVICES=pci", sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("memory policy preferred:0") == (8 if number == 0 else 0)


def test_the_plugins_page_starts_a_worker_as_a_batch_job() -> None:
    """On the real kernel, and with the starting thread as it was; a simulated process is bound alone."""
    page = (ROOT / "docs/reference/plugins.md").read_text()
    (block,) = re.findall(r"```python\n(import os\n.*?)```", page, re.DOTALL)
    program = f"""{block}
import affinity
from affinity.launchers import Launch
from affinity.testing import FakeHost

def scheduled(host):
    placement = Placement(affinity.CpuSet([host.allowed_cpus.first()]), None)
    made = start(None, placement, Observation(host, Launch(affinity.LaunchMode.SPAWN, start_method="fork")))
    with made.around():
        return os.sched_getscheduler(0), host.kernel.get_affinity() == placement.cpus

print(*scheduled(affinity.Host.live()), *scheduled(FakeHost("dgx-h100").host), os.sched_getscheduler(0))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "3 True 0 True 0\n"


DESIGN = (ROOT / "docs/explanation/design.md").read_text()


def test_the_design_page_leads_to_files_that_are_there() -> None:
    """Each stop of the reading order, and the file of each change; at least ten of these."""
    order, changes = (DESIGN.partition(f"## {title}\n")[2].partition("\n## ")[0] for title in
                      ("Reading order", "Where a change goes"))  # fmt: skip
    stops = re.findall(r"`((?:affinity|plugins)/\S+\.py)`", order)
    files = re.findall(r"^\| .* \| `(\S+)`[^|]*\|$", changes, re.MULTILINE)
    assert len(stops) >= 7
    assert len(files) >= 10
    assert [name for name in (*stops, *files) if not (ROOT / name).is_file()] == []


def test_the_design_page_has_the_rule_table() -> None:
    """Number, condition and strategies of every rule."""
    for number, rule in enumerate(RULES, 1):
        cells = ", else ".join(f"`{name}`" for name in rule.strategies)
        assert f"| {number} | {rule.condition} | {cells}" in DESIGN


def test_the_design_page_names_what_is_there() -> None:
    """Every function and class of its five verbs."""
    import affinity.api
    import affinity.policies
    import affinity.report.report
    import affinity.strategies

    places = (affinity.api, affinity.policies, affinity.strategies, affinity.report.report)
    verbs = DESIGN.partition("```")[2].partition("```")[0]
    named = {word.rpartition(".")[0] or word for word in re.findall(r"([A-Za-z.]+)\(\)", verbs)}
    named |= set(re.findall(r"-> (\w+)", verbs))
    missing = {name for name in named if not any(hasattr(place, name) for place in places)}
    assert missing == set()


DOCS = ROOT / "docs"


def links(page: Path) -> set[Path]:
    """The pages that a page links to."""
    targets = re.findall(r"\]\((?!https?://)([^)#]+\.md)(?:#[^)]*)?\)", page.read_text())
    return {(page.parent / target).resolve() for target in targets}


def test_each_of_the_ten_tasks_is_two_clicks_from_the_index() -> None:
    """Without the page that lists them."""
    tasks = DOCS / "ten-tasks.md"
    once = links(DOCS / "index.md") - {tasks}
    twice = set().union(*map(links, once))
    rows = re.findall(r"^\| (?!task|---)(.+?) \|.*\|(.+)\|$", tasks.read_text(), re.MULTILINE)
    assert len(rows) == 10
    for task, cell in rows:
        pages = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)#]+)", cell)}
        assert pages, task
        assert pages <= once | twice, task


def test_every_page_is_in_the_site() -> None:
    """In a table of contents of the index or of the Python interface."""
    for index in (DOCS / "index.md", DOCS / "reference/api/index.md"):
        trees = re.findall(r"```\{toctree\}\n(.*?)```", index.read_text(), re.DOTALL)
        listed = {line for tree in trees for line in tree.split() if not line.startswith(":")}
        there = {str(p.relative_to(index.parent).with_suffix("")) for p in index.parent.glob("**/*.md")} - {"index"}
        if index.parent == DOCS:
            there = {name for name in there if not name.startswith("reference/api/")} | {"reference/api/index"}
        assert there <= listed


@pytest.mark.parametrize(
    ("module", "page"),
    [
        ("affinity", "calls"), ("affinity.strategies", "plugins"), ("affinity.policies", "plugins"),
        ("affinity.devices", "plugins"), ("affinity.launchers", "plugins"), ("affinity.kernel", "plugins"),
        ("affinity.topology", "plugins"), ("affinity.testing", "testing"),
    ],
)  # fmt: skip
def test_the_python_reference_has_every_public_name(module: str, page: str) -> None:
    """Functions and classes; of what several modules offer, one entry."""
    public = importlib.import_module(module)
    names = {
        n
        for n, value in ((n, getattr(public, n)) for n in dir(public))
        if n[0] != "_" and callable(value) and n != "Any"
    }
    pages = "".join((DOCS / f"reference/api/{p}.md").read_text() for p in ("calls", page))
    assert names <= set(re.findall(r"^\.\. auto\w+:: (\w+)", pages, re.MULTILINE))


def test_the_containers_page_quotes_the_messages() -> None:
    """The words of each refusal are those of the code, and its pod runs `affinity run`."""
    page = (DOCS / "howto/containers.md").read_text()
    code = "\n".join(p.read_text() for p in ROOT.glob("affinity/**/*.py"))
    table = page.partition("## What each refusal looks like")[2].partition("\n## ")[0]
    quoted = [re.findall(r"`([^`]+)`", row.split("|")[1]) for row in table.splitlines() if row.startswith("| `")]
    assert len(quoted) >= 6
    for part in (part for row in quoted for part in row):
        for words in re.split(r"^\w+: | \[\w+\]|Operation not permitted| \d ?", part):
            assert words.strip(", ") in code, part
    pod = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    assert pod["spec"]["containers"][0]["command"][:3] == ["affinity", "run", "--"]
