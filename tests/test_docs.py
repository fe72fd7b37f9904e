"""The documentation tells what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
