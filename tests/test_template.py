"""plugins/template, as its author's users get it: built, and installed beside this project's wheel."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
import schemas
from fresh import ROOT, Environment, wheel

TEMPLATE = ROOT / "plugins" / "template"
TWO = "pack:2 core:8 gpu:1"


@pytest.fixture(scope="module")
def installed(fresh: Environment, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The fresh environment, with the template's wheel beside the project's."""
    fresh.install(wheel(TEMPLATE, tmp_path_factory.mktemp("template")))
    return fresh


def test_everything_comes_from_the_wheels(installed: Environment, tmp_path: Path) -> None:
    """Not from the checkout, or the rest would prove nothing."""
    program = (
        "import affinity as a, affinity_plugins as b, affinity_example as c; print(*(m.__file__ for m in (a, b, c)))"
    )
    paths = installed.run("python", "-c", program, cwd=tmp_path).stdout.split()
    assert len(paths) == 3
    assert all(path.startswith(str(installed.path)) for path in paths)


def test_its_tests_pass(installed: Environment, tmp_path: Path) -> None:
    """The three contracts, on machines that are not here, and its own."""
    shutil.copytree(TEMPLATE / "tests", tmp_path / "tests")
    done = installed.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=tmp_path)
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


def test_it_is_listed_with_its_distribution(installed: Environment, tmp_path: Path) -> None:
    """As a strategy, a policy and a launcher, none broken."""
    listed = schemas.load(
        "strategies", installed.run("affinity", "strategies", "--json", "--synthetic", TWO, cwd=tmp_path).stdout
    )
    for group in ("strategies", "policies", "launchers"):
        (found,) = [plugin for plugin in listed[group] if plugin["name"] == "affinity-example"]
        assert (found["distribution"], found["version"], found["error"]) == ("affinity-example", "0.1.0", None)


def test_an_environment_variable_selects_it(installed: Environment, tmp_path: Path) -> None:
    """Of the strategy and of the policy; the rule that chose is reported."""
    command = ["affinity", "explain", "--gpu", "1", "--launch-mode", "ray", "--json", "--synthetic", TWO]
    names = {"AFFINITY_STRATEGY": "affinity-example", "AFFINITY_POLICY": "affinity-example"}
    explained = schemas.load("explain", installed.run(*command, cwd=tmp_path, **names).stdout)
    assert (explained["strategy"], explained["policy"]) == ("affinity-example", "affinity-example")
    assert explained["reason"] == "AFFINITY_STRATEGY=affinity-example names affinity-example"
    assert explained["cpus"] == "8-15"


def test_it_binds_a_worker_on_this_machine(installed: Environment, tmp_path: Path) -> None:
    """`affinity.bind()` in a worker whose environment names it; the kernel shows it, and so do the pools."""
    program = (
        "import os, affinity\n"
        "report = affinity.bind()\n"
        "print(report.strategy, report.satisfied, report.observed.policy, int(os.environ['OMP_NUM_THREADS']) > 0)"
    )
    printed = installed.run(
        "python", "-c", program, cwd=tmp_path,
        AFFINITY_STRATEGY="affinity-example", AFFINITY_NODES="0", AFFINITY_DEVICES="pci",
    )  # fmt: skip
    assert printed.stdout == "affinity-example True preferred:0 True\n"


def test_a_launch_that_it_does_not_serve_is_an_error_that_states_so(installed: Environment, tmp_path: Path) -> None:
    """`affinity run` starts commands; this strategy binds what runs already."""
    command = ["affinity", "run", "--node", "0", "--", "true"]
    done = installed.run(*command, cwd=tmp_path, check=False, AFFINITY_STRATEGY="affinity-example")
    assert done.returncode == 3
    assert "affinity-example: does not serve launch mode command" in done.stderr


def test_new_plugin_works_from_the_wheel(installed: Environment, tmp_path: Path) -> None:
    """What it writes can be built, installed and selected at once, beside the template itself."""
    installed.run("affinity", "new-plugin", "sample-numa", cwd=tmp_path)
    built = wheel(tmp_path / "sample-numa", tmp_path / "dist")
    names = zipfile.ZipFile(built).namelist()
    assert {f"sample_numa/{n}" for n in ("strategy.py", "policy.py", "launcher.py", "py.typed")} <= set(names)
    assert not any(name.startswith("tests") for name in names)
    installed.install(built)
    command = ["affinity", "plan", "--json", "--launch-mode", "ray", "--synthetic", TWO]
    planned = schemas.load("plan", installed.run(*command, cwd=tmp_path, AFFINITY_STRATEGY="sample-numa").stdout)
    assert {plan["strategy"] for plan in planned} == {"sample-numa"}
