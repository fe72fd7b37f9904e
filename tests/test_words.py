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

#: Files still to be reworded. A clean file must not be in this list, so it can only get shorter.
UNTOUCHED: tuple[str, ...] = (
    "CONTRIBUTING.md",
    "README.md",
    "affinity/api.py",
    "affinity/degradation.py",
    "affinity/devices/gpu.py",
    "affinity/devices/inventory.py",
    "affinity/devices/numa_node.py",
    "affinity/devices/ordinals.py",
    "affinity/devices/provider.py",
    "affinity/devices/references.py",
    "affinity/errors.py",
    "affinity/handoff.py",
    "affinity/host.py",
    "affinity/integrations/ray/actor_audit.py",
    "affinity/integrations/ray/cluster.py",
    "affinity/integrations/ray/node_survey.py",
    "affinity/integrations/ray/store.py",
    "affinity/kernel/command.py",
    "affinity/kernel/libnuma.py",
    "affinity/kernel/linux.py",
    "affinity/kernel/procfs.py",
    "affinity/launchers/launch.py",
    "affinity/launchers/launcher.py",
    "affinity/observe.py",
    "affinity/registry.py",
    "affinity/report/log.py",
    "affinity/report/observed.py",
    "affinity/report/report.py",
    "affinity/report/restore.py",
    "affinity/settings.py",
    "affinity/strategies/process.py",
    "affinity/strategies/strategy.py",
    "affinity/testing/__init__.py",
    "affinity/testing/contract.py",
    "affinity/testing/fakehost.py",
    "affinity/testing/launcher_contract.py",
    "affinity/testing/machines/__init__.py",
    "affinity/testing/machines/model.py",
    "affinity/testing/machines/nvidia.py",
    "affinity/testing/machines/others.py",
    "affinity/testing/machines/virtual.py",
    "affinity/testing/programs.py",
    "affinity/testing/simkernel.py",
    "affinity/testing/trees.py",
    "affinity/topology/archive.py",
    "affinity/topology/cpuset.py",
    "affinity/topology/model.py",
    "affinity/topology/synthetic.py",
    "docs/explanation/design.md",
    "docs/explanation/figures.md",
    "docs/explanation/placement.md",
    "docs/explanation/why-not-py-executable.md",
    "docs/howto/ray.md",
    "docs/howto/test-without-the-hardware.md",
    "docs/reference/cli.md",
    "docs/reference/contract.md",
    "docs/reference/gpus.md",
    "docs/reference/json.md",
    "docs/reference/machines.md",
    "docs/reference/plugins.md",
    "docs/reference/policies.md",
    "docs/reference/settings.md",
    "docs/security.md",
    "docs/tutorial/scheduler-actor.md",
    "docs/tutorial/write-a-strategy.md",
    "plugins/affinity_plugins/devices/nvml.py",
    "plugins/affinity_plugins/devices/pci.py",
    "plugins/affinity_plugins/policies/even.py",
    "plugins/affinity_plugins/policies/explicit.py",
    "plugins/template/src/affinity_example/launcher.py",
    "plugins/template/src/affinity_example/strategy.py",
    "plugins/template/tests/test_launcher.py",
    "plugins/template/tests/test_strategy.py",
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
    if not name.startswith("affinity/") or not name.endswith(".py"):
        return
    for function in public_functions(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        first = (ast.get_docstring(function) or ".").split("\n")[0]
        if not first.endswith(".") or first.startswith(NO_VERBS):
            yield f"{name}:{function.lineno}: {first!r}"


def problems(name: str) -> list[str]:
    return [*banned_words(name), *noun_docstrings(name)]


@pytest.mark.parametrize("name", [*SOURCES, *PAGES])
def test_the_words_are_plain(name: str) -> None:
    """No word of rules 2 and 3; the docstring of a public function of `affinity` begins with its verb."""
    if name in UNTOUCHED:
        pytest.skip("still to be reworded")
    assert problems(name) == []


def test_the_list_of_untouched_files_can_only_shrink() -> None:
    """It has no file twice, none that is not there, and none that is clean."""
    assert sorted(set(UNTOUCHED)) == list(UNTOUCHED)
    assert [name for name in UNTOUCHED if name not in (*SOURCES, *PAGES) or not problems(name)] == []


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
