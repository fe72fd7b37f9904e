"""Mutation testing of the core: `python tests/mutants [WORD...]`, or `tox -e mutants`.

Each mutation of `mutations.py` is applied alone, to a copy of the project in a temporary directory. The tests that
should notice it are run there until the first fails: then the mutation is killed. A mutation that survives is a test
that is missing, or is equivalent: no observable behaviour depends on the text, for the reason that the list has.
At the end the tests that killed are run once without a mutation, and pass.

WORD: run only the mutations with it in their file, text or tests. The exit status is 1 if one survives that has no
reason, if one with a reason is killed, or if a test that killed fails without a mutation.
"""

from __future__ import annotations

import os
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutations import MUTATIONS, ROOT, Mutation, mutated

COPIED = ("affinity", "plugins", "tests", "docs", "pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
SECONDS = 240  # of the tests of one mutation, which may hang: then it is killed
SECONDS_WITHOUT = 1800


def failed(tests: list[str], folder: Path, seconds: float) -> str:
    """Run tests with the package of a folder; return the first that failed, or "" if all passed."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--tb=no", "-p", "no:cacheprovider",
               "--timeout=60", *tests]  # fmt: skip
    paths = f"{folder}{os.pathsep}{folder}/plugins"
    environ = {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=folder / "tests", env=environ, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=seconds, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return "timeout"
    if done.returncode == 0:
        return ""
    lines = done.stdout.splitlines() or [""]
    if done.returncode != 1:
        raise RuntimeError(f"{shlex.join(command)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return next((line.split(" ", 1)[1] for line in lines if line.startswith(("FAILED ", "ERROR "))), lines[-1])


def verdict(mutation: Mutation, folder: Path) -> str:
    """Apply a mutation to the copy, run its tests, and restore the copy; return what `failed` does."""
    path = folder / mutation.file
    original = path.read_text(encoding="utf-8")
    path.write_text(mutated(mutation, original), encoding="utf-8")
    try:
        return failed(shlex.split(mutation.tests), folder, SECONDS)
    finally:
        path.write_text(original, encoding="utf-8")


def copied(folder: Path) -> Path:
    """Copy the project to a new folder, without bytecode: a mutation of the same length would not be read."""
    for part in COPIED:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=ignored)
        else:
            shutil.copy2(ROOT / part, folder / part)
    return folder


def killer(mutation: Mutation, noticed: str) -> list[str]:
    """Return the arguments of pytest that run the test that noticed a mutation; all its tests after a timeout."""
    if "::" not in noticed:
        return shlex.split(mutation.tests)
    return [noticed.partition(" - ")[0].partition("[")[0]]


def main() -> int:
    words = sys.argv[1:]
    chosen = [m for m in MUTATIONS if all(any(word in str(part) for part in m) for word in words)]
    workers = min(os.cpu_count() or 1, 4)
    began, killed, wrong = time.monotonic(), 0, 0
    killers: set[tuple[str, ...]] = set()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(workers) as pool:
        folders: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for worker in range(workers):
            folders.put(copied(Path(name, str(worker))))

        def tried(mutation: Mutation) -> str:
            folder = folders.get()
            try:
                return verdict(mutation, folder)
            finally:
                folders.put(folder)

        for number, (mutation, noticed) in enumerate(zip(chosen, pool.map(tried, chosen), strict=True), 1):
            if noticed:
                killers.add(tuple(killer(mutation, noticed)))
            killed += bool(noticed)
            wrong += bool(noticed) == bool(mutation.equivalent)
            state = f"killed by {noticed}" if noticed else "equivalent" if mutation.equivalent else "SURVIVED"
            print(f"{number:3} {mutation.file}: {mutation.shown} -- {state}", flush=True)
        nodes = sorted(tests[0] for tests in killers if len(tests) == 1)
        for tests in [nodes, *sorted(list(tests) for tests in killers if len(tests) > 1)]:
            problem = tests and failed(tests, Path(name, "0"), SECONDS_WITHOUT)
            if problem:
                wrong += 1
                print(f"{shlex.join(tests)}: without a mutation, this fails: {problem}", flush=True)
    print(f"{len(chosen)} tried, {killed} killed, {len(chosen) - killed} survived, {wrong} not as listed; "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
