"""What several tests share: the project's root, and running a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fresh import fresh, project_wheel

__all__ = ["fresh", "project_wheel"]

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Let the processes that tests start be interrupted, also where a shell runs the tests in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No flag of whatever runs the tests decides a test."""
    for name in list(os.environ):
        if name.startswith(("AFFINITY_", "SGLANG_")):
            monkeypatch.delenv(name)


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program text in a fresh interpreter: `python(text, *arguments, prefix=["taskset", …], **environ)`."""

    def run(
        text: str, *arguments: str, prefix: tuple[str, ...] = (), check: bool = True, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*prefix, sys.executable, "-c", text, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **environ},
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run
