"""tests/oldest.txt, the constraints of `tox -e oldest`, has the lower bound of each requirement in pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

#: What the tests are run with; Ray's oldest version has an environment of its own, `tox -e ray-oldest`.
DECLARED = [*PROJECT["dependencies"], *EXTRAS["nvml"], *EXTRAS["prometheus"], *EXTRAS["bench"], *EXTRAS["tests"]]
FLOORS = {
    requirement.name: specifier.version
    for requirement in map(Requirement, DECLARED)
    if requirement.name != PROJECT["name"]
    for specifier in requirement.specifier
    if specifier.operator == ">="
}
TESTED = {
    requirement.name: next(iter(requirement.specifier)).version
    for requirement in map(Requirement, (ROOT / "tests/oldest.txt").read_text(encoding="utf-8").splitlines()[2:])
}


def test_every_declared_dependency_is_tested_at_its_oldest() -> None:
    assert sorted(TESTED) == sorted(FLOORS) == sorted({Requirement(r).name for r in DECLARED} - {PROJECT["name"]})


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_the_tested_version_is_the_first_of_the_declared_bound(name: str) -> None:
    """`>=24.1` is tested as 24.1.0, or the first of 24.1.* that the index still offers."""
    assert f"{TESTED[name]}.".startswith(f"{FLOORS[name]}.")
