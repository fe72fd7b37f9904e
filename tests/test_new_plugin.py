"""`affinity new-plugin`: the template with the names filled in, or a clear refusal."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).resolve().parent.parent / "plugins" / "template"


def new_plugin(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a directory."""
    command = [sys.executable, "-m", "affinity", "new-plugin", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def files(folder: Path) -> set[str]:
    """Every file below it, but for what running it leaves."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if not any(p == "__pycache__" or p.startswith(".") for p in path.parts)}


def test_it_writes_the_template_with_the_names_filled_in(tmp_path: Path) -> None:
    """Every file, and the template's own name nowhere."""
    done = new_plugin("acme-numa", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m pip install -e './acme-numa[tests]'" in done.stdout
    written = tmp_path / "acme-numa"
    assert files(written) == {name.replace("affinity_example", "acme_numa") for name in files(TEMPLATE)}
    for name in files(written):
        text = (written / name).read_text(encoding="utf-8")
        assert "example" not in text.lower(), name
        if name.endswith(".py"):
            ast.parse(text)
    project = tomllib.loads((written / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "acme-numa"
    assert project["entry-points"] == {
        "affinity.strategies": {"acme-numa": "acme_numa.strategy:AcmeNumaStrategy"},
        "affinity.policies": {"acme-numa": "acme_numa.policy:AcmeNumaPolicy"},
        "affinity.launchers": {"acme-numa": "acme_numa.launcher:AcmeNumaLauncher"},
    }
    assert "class AcmeNumaStrategy(AffinityStrategy):" in (written / "src/acme_numa/strategy.py").read_text()


def test_it_writes_where_it_is_reported(tmp_path: Path) -> None:
    """And nowhere else."""
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    done = new_plugin("acme", "--directory", str(tmp_path / "there"), cwd=tmp_path / "here")
    assert f"'{tmp_path}/there/acme[tests]'" in done.stdout
    assert (tmp_path / "there/acme/pyproject.toml").is_file()
    assert list((tmp_path / "here").iterdir()) == []


def test_it_overwrites_nothing(tmp_path: Path) -> None:
    """Not even an empty folder; what is there stays as it is."""
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "README.md").write_text("mine")
    done = new_plugin("acme", cwd=tmp_path)
    assert done.returncode == 2
    assert "acme already exists and is not overwritten" in done.stderr
    assert files(tmp_path) == {"acme/README.md"}
    assert (tmp_path / "acme/README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Acme", "expected lower-case words joined by hyphens, as acme-numa"),
        ("acme_numa", "expected lower-case words"),
        ("../acme", "expected lower-case words"),
        ("acme-", "expected lower-case words"),
        ("", "expected lower-case words"),
        ("auto", "is a reserved word"),
        ("class", "is a reserved word"),
        ("numactl", "plugin 'numactl' is already installed"),
        ("core-complex", "plugin 'core-complex' is already installed"),
        ("json", "a package 'json' already exists"),
        ("affinity-plugins", "a package 'affinity_plugins' already exists"),
    ],
)
def test_a_name_that_could_not_be_used_is_refused(name: str, words: str, tmp_path: Path) -> None:
    """With what is wrong with it, and nothing is written."""
    done = new_plugin(name, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """It is more often a slip than a wish."""
    done = new_plugin("acme", "--directory", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "'nowhere' does not exist" in done.stderr
