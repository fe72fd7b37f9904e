"""The words of code and documentation follow the rules of CONTRIBUTING.md, "Plain words"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Rules 2 and 3. An underscore or a digit ends a word; a phrase may be broken by a line end, a hyphen or an underscore.
BANNED = (
    "who", "whoever", "somebody", "someone", "nobody", "everybody", "the word of", "tell", "tells", "told",
    "say", "says", "said", "hear", "hears", "heard", "know", "knows", "believe", "believes", "believed",
    "knock", "knocks", "give up", "gives up", "given up", "gave up",
)  # fmt: skip
PATTERN = re.compile(
    r"(?<![a-z])(" + "|".join(word.replace(" ", r"[\W_]+") for word in BANNED) + r")(?![a-z])", re.IGNORECASE
)

#: Rule 1: how the docstring of a function does not begin.
NO_VERBS = ("Whether ", "What ", "Which ", "Where ", "Why ", "How ", "The ")

#: Texts that stay: keys of the JSON output, and the rules themselves.
QUOTED = (
    ("affinity/render/serialize.py", '"said": '),
    ("docs/reference/json.md", "`said`"),
    ("CONTRIBUTING.md", 'Not "who", "somebody", "nobody",\n   "the word of".'),
    ("CONTRIBUTING.md", "They do not tell, say, hear, know, believe, knock or give up."),
)

SOURCES = sorted(
    str(path.relative_to(ROOT)) for folder in ("affinity", "plugins") for path in (ROOT / folder).rglob("*.py")
    if path.resolve().is_relative_to(ROOT / folder)
)  # fmt: skip
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]
TESTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py") if path.name != "test_words.py")


def banned_words(name: str) -> Iterator[str]:
    """Yield each banned word of a file, with its line; in Python also those in names, comments and literals."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for file, quoted in QUOTED:
        if file == name:
            text = text.replace(quoted, re.sub(r"[^\n]", " ", quoted))
    for match in PATTERN.finditer(text):
        yield f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}"


def public_functions(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Yield the public functions and methods, without properties and tests."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith(("_", "test_")) and not is_property(node):
            yield node


def is_property(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).endswith("property") for decorator in function.decorator_list)


def noun_docstrings(name: str) -> Iterator[str]:
    """Yield each docstring of a public function that is not one sentence in the imperative in its first line."""
    if not name.startswith("affinity/") or not name.endswith(".py") or "/machines/" in name:
        return  # a named machine's docstring is the record of its source
    for function in public_functions(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        first = (ast.get_docstring(function) or ".").split("\n")[0]
        if not first.endswith(".") or first.startswith(NO_VERBS):
            yield f"{name}:{function.lineno}: {first!r}"


def problems(name: str) -> list[str]:
    return [*banned_words(name), *noun_docstrings(name)]


@pytest.mark.parametrize("name", [*SOURCES, *PAGES, *TESTS])
def test_the_words_are_plain(name: str) -> None:
    """No word of rules 2 and 3; the docstring of a public function of `affinity` begins with its verb."""
    assert problems(name) == []


@pytest.mark.parametrize(("name", "text"), QUOTED)
def test_what_is_quoted_is_there(name: str, text: str) -> None:
    """An exception that is no longer needed goes away."""
    assert text in (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    ["told", "_said", "told_by", "# Tell it", "WHO: a launcher", "given\n    # up", "given_up", "the word\nof it"],
)
def test_a_banned_word_is_found_in_names_and_across_lines(text: str) -> None:
    """As a part of a name between underscores, in any case, and where a comment breaks a phrase."""
    assert PATTERN.search(text)


@pytest.mark.parametrize("text", ["known", "unknown", "whole", "essay", "unheard", "give it up to 2 s", "upgiven"])
def test_other_words_are_not_found(text: str) -> None:
    """The states `known` and `unknown` are plain, and a word inside another one is another one."""
    assert not PATTERN.search(text)
