"""docs/tutorial/write-a-strategy.md, followed to the letter in a fresh environment."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from fresh import ROOT, Environment

PAGE = ROOT / "docs" / "tutorial" / "write-a-strategy.md"

FENCE = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

SAME = doctest.OutputChecker()


@attrs.frozen
class Applied:
    """A fenced block. A python block is the file that it names; a console block is commands and what they print.

    `console fails`: its last command ends with an error.
    """

    language: str
    what: str
    text: str

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command with what it prints."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            yield command, printed


STEPS = [Applied(*found) for found in FENCE.findall(PAGE.read_text(encoding="utf-8"))]


def squeezed(text: str) -> str:
    """Without what a table draws around its columns, and without empty lines."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line.strip("─ ")) + "\n"


@pytest.mark.timeout(300)
def test_every_step_does_what_the_page_states(fresh: Environment, tmp_path: Path) -> None:
    """Files are written, commands are run in order, and what they print is what is shown, but for `...`."""
    here = tmp_path
    for step in STEPS:
        if step.language == "python":
            file = here / step.what
            assert file.is_file(), f"{step.what} is a file of the template"
            file.write_text(step.text, encoding="utf-8")
            continue
        for command, expected in step.commands():
            if command.startswith("cd "):
                here /= command.removeprefix("cd ")
                continue
            done = fresh.run("bash", "-c", command, cwd=here, check=False, PYTHONDONTWRITEBYTECODE="1")
            printed = done.stdout + done.stderr
            assert (done.returncode != 0) is (step.what == "fails"), f"$ {command}\n{printed}"
            assert SAME.check_output(squeezed(expected), squeezed(printed), doctest.ELLIPSIS), f"$ {command}\n{printed}"


def test_the_page_is_read_whole() -> None:
    """Every fenced block is a step of a kind that is followed."""
    assert len(STEPS) == PAGE.read_text(encoding="utf-8").count("\n```") / 2
    assert {step.language for step in STEPS} == {"console", "python"}
    assert {step.what for step in STEPS if step.language == "console"} == {"", "fails"}
    assert all(step.what for step in STEPS if step.language == "python")
