"""Mutation testing of the core: `python tests/mutants [WORD...]`, or `tox -e mutants`.

Each mutation of `mutations.py` is applied alone, to a copy of the project in a temporary directory. The tests that
should notice it are run there until the first fails: then the mutation is killed. A mutation that survives is a test
that is missing, or is equivalent: no observable behaviour depends on the text, for the reason that the list has.

WORD: run only the mutations with it in their file, text or tests. The exit status is 1 if one survives that has no
reason, or if one with a reason is killed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutations import MUTATIONS, ROOT, Mutation, mutated

COPIED = ("affinity", "plugins", "tests", "docs", "pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
SECONDS = 240  # of the tests of one mutation, which may hang


def failed(tests: str, folder: Path) -> str:
    """Run tests with the package of a folder; return the first that failed, "timeout", or "" if all passed."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--tb=no", "-p", "no:cacheprovider",
               "--timeout=60", *shlex.split(tests)]  # fmt: skip
    paths = f"{folder}{os.pathsep}{folder}/plugins"
    environ = {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(command, cwd=folder / "tests", env=environ, capture_output=True, text=True,
                              timeout=SECONDS, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return "timeout"
    if done.returncode == 0:
        return ""
    lines = done.stdout.splitlines()
    if done.returncode != 1:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return next((line.removeprefix("FAILED ") for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1])


def write(path: Path, text: str) -> None:
    """Write a module. Its bytecode is deleted: a change of the same length within a second would not be seen."""
    path.write_text(text, encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def verdict(mutation: Mutation, folder: Path) -> str:
    """Apply a mutation to the copy, run its tests, and restore the copy; return what `failed` does."""
    path = folder / mutation.file
    original = path.read_text(encoding="utf-8")
    write(path, mutated(mutation, original))
    try:
        return failed(mutation.tests, folder)
    finally:
        write(path, original)


def main() -> int:
    words = sys.argv[1:]
    chosen = [m for m in MUTATIONS if all(any(word in str(part) for part in m) for word in words)]
    began, killed, wrong = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in COPIED:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / part, symlinks=True)
            else:
                shutil.copy2(ROOT / part, folder / part)
        for tests in sorted({m.tests for m in chosen}):
            problem = failed(tests, folder)
            if problem:
                raise SystemExit(f"without a mutation fails: {problem}")
        print(f"{len(chosen)} mutations; their tests pass without them: {time.monotonic() - began:.0f} s", flush=True)
        for number, mutation in enumerate(chosen, 1):
            noticed = verdict(mutation, folder)
            killed += bool(noticed)
            wrong += bool(noticed) == bool(mutation.equivalent)
            state = f"killed by {noticed}" if noticed else "equivalent" if mutation.equivalent else "SURVIVED"
            print(f"{number:3} {mutation.file}: {mutation.shown} -- {state}", flush=True)
    print(f"{len(chosen)} tried, {killed} killed, {len(chosen) - killed - wrong} equivalent, {wrong} not as listed; "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
