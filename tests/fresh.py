"""A fresh environment, made without a network: a venv that has the built wheels, and the dependencies of this one."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).resolve().parent.parent


@attrs.frozen
class Environment:
    """A virtual environment; its own packages come before those it borrows."""

    path: Path

    def run(self, *command: str, cwd: Path, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command as if the environment were activated."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AFFINITY_", "SGLANG_", "PYTHON", "PIP_"))}
        environ = {
            **kept,
            "PATH": f"{self.path}/bin:{kept['PATH']}",
            "VIRTUAL_ENV": str(self.path),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip takes the value for that of build_isolation: no isolation
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **environ,
        }
        done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=100, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done

    def install(self, *wheels: Path) -> None:
        """Install these wheels, and nothing else; also where the borrowed packages have the same version."""
        self.run(
            "python", "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", *map(str, wheels), cwd=self.path
        )


def wheel(project: Path, into: Path) -> Path:
    """Build a project's wheel with the build backend that is here."""
    into.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(into), str(project)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = into.glob("*.whl")
    return built


def make(path: Path) -> Environment:
    """A venv that sees this environment's packages, but none that is installed in it as editable."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True, timeout=60)
    (packages,) = path.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return Environment(path)


@pytest.fixture(scope="session")
def project_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project's wheel, built once."""
    return wheel(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def fresh(project_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with the wheel in it. What the tests of one file install, no other file has."""
    environment = make(tmp_path_factory.mktemp("fresh") / "venv")
    environment.install(project_wheel)
    return environment
