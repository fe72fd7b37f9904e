"""Each mutation of `tests/mutants` applies to the code as it is, and names tests that exist."""

from __future__ import annotations

import runpy
import shlex
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
LIST = runpy.run_path(str(TESTS / "mutants" / "mutations.py"))


def test_each_mutation_applies_to_the_code_as_it_is() -> None:
    for mutation in LIST["MUTATIONS"]:
        source = (LIST["ROOT"] / mutation.file).read_text(encoding="utf-8")
        changed = LIST["mutated"](mutation, source)
        assert changed != source


def test_each_mutation_has_tests() -> None:
    for mutation in LIST["MUTATIONS"]:
        arguments = shlex.split(mutation.tests)
        files = [word for word in arguments if word.endswith(".py")]
        assert files, mutation.shown
        assert all((TESTS / file).is_file() for file in files), mutation.tests


def test_a_mutation_is_tried_once() -> None:
    changes = [(mutation.file, mutation.old, mutation.new) for mutation in LIST["MUTATIONS"]]
    assert len(set(changes)) == len(changes)


@pytest.mark.parametrize(("old", "reason"), [("x = 2", "0 times"), ("x", "2 times"), ("x = 1", "changes no code")])
def test_a_mutation_that_does_not_apply_is_an_error(old: str, reason: str) -> None:
    mutation = LIST["Mutation"]("some.py", old, old.replace(" ", "  "), "test_mutants.py")
    with pytest.raises(ValueError, match=reason):
        LIST["mutated"](mutation, "x = 1\nprint(x)\n")
