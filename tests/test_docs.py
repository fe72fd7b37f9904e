"""The documentation shows what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from affinity.selection.rules import RULES
from affinity.variables import ALIASES, VARIABLES

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """Every relative link names a file or a folder that is there."""
    for target in re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


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
