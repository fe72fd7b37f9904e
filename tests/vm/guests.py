"""Runs the guest tests in their machines and keeps what came of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .boot import BootError, Result, python, run, tails
from .machines import MACHINES
from .prepare import Missing

GUEST = Path(__file__).with_name("guest")
PYTEST = ["-m", "pytest", "-c", str(GUEST / "pytest.ini")]
#: The guest tests' environment: no plugins, and the package that is installed, not the working directory's.
QUIET = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "PYTHONSAFEPATH": "1"}


class ListError(Exception):
    """The guest tests cannot be listed."""


@dataclass
class Outcome:
    """What came of a test in a machine."""

    outcome: str = "passed"
    text: str = ""
    seconds: float = 0.0
    sections: dict[str, str] = field(default_factory=dict)

    def add(self, line: dict[str, object]) -> None:
        """Take in the report on one phase of the test."""
        outcome, expected = line["outcome"], line["expected"]
        assert isinstance(line["seconds"], float)
        assert isinstance(line["output"], list)
        self.seconds += line["seconds"]
        self.sections.update(line["output"])
        if outcome == "skipped" and expected is not None:
            self.outcome, self.text = "xfailed", str(expected)
        elif outcome == "failed":
            self.outcome, self.text = "failed", f"{self.text}\n{line['text']}".strip()
        elif outcome == "skipped" and self.outcome == "passed":
            self.outcome, self.text = "skipped", str(line["text"])


@dataclass(frozen=True)
class Visit:
    """What came of the tests in one machine."""

    outcomes: dict[str, Outcome]
    trouble: str
    seconds: float
    console: str = ""

    def outcome(self, test: str) -> Outcome:
        """What came of a test; of one that failed, with what stood on the machine's console."""
        found = self.outcomes.get(test)
        if found is None:
            return Outcome("failed", f"the machine did not report on it\n{self.trouble}")
        if found.outcome == "failed" and self.console:
            found.sections["the machine's console"] = self.console
        return found


def list_tests() -> dict[str, list[str]]:
    """The guest tests by node id, with the machines each is to run on."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tests.json"
        listing = subprocess.run(
            [sys.executable, *PYTEST, "--collect-only", "-q", str(GUEST)],
            # What is compiled here, no guest has to compile: each would, as nothing that it writes is kept.
            env={**os.environ, **QUIET, "VM_LIST": str(path), "PYTHONDONTWRITEBYTECODE": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        if listing.returncode != 0 or not path.exists():
            raise ListError(listing.stdout + listing.stderr)
        tests: dict[str, list[str]] = json.loads(path.read_text())
        return tests


def visit(machine: str, tests: Iterable[str], results: Path, stop: threading.Event) -> Visit:
    """Boot a machine and run these tests in it."""
    tests = sorted(tests)
    (results / "selection.json").write_text(json.dumps(tests))
    files = sorted({str(GUEST / test.partition("::")[0]) for test in tests})
    command = [python(MACHINES[machine]), *PYTEST, "-q", "--tb=short", *files]
    for boots in (1, 2):
        try:
            result = run(MACHINES[machine], command, results, environment=QUIET, stop=stop)
            console = "\n".join(result.console.splitlines()[-40:]).strip()
            return Visit(read_report(results), trouble(result), result.seconds, console)
        except BootError as error:
            reported = f"boot {boots}: {error}"
            if error.started or stop.is_set():
                break  # else it came to no test: an emulated processor has been seen to reset while the kernel starts
        except Missing as error:
            reported = str(error)
            break
    return Visit(read_report(results), reported, 0.0)


def trouble(result: Result) -> str:
    logs = {"console": result.console, "output": result.output}
    return f"exit status {result.status}\n{tails(logs)}"


def read_report(results: Path) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    report = results / "report.jsonl"
    for line in report.read_text().splitlines() if report.exists() else ():
        phase = json.loads(line)
        outcomes.setdefault(phase["test"], Outcome()).add(phase)
    return outcomes


class Visits:
    """Visits to several machines, as many at a time as there are jobs."""

    def __init__(self, tests: dict[str, list[str]], jobs: int, scratch: Callable[[str], Path]) -> None:
        self.pool = ThreadPoolExecutor(jobs)
        self.stop = threading.Event()
        self.visits: dict[str, Future[Visit]] = {
            machine: self.pool.submit(visit, machine, chosen, scratch(machine), self.stop)
            for machine, chosen in tests.items()
        }

    def outcome(self, machine: str, test: str) -> Outcome:
        return self.visits[machine].result().outcome(test)

    def close(self) -> None:
        self.stop.set()
        self.pool.shutdown(cancel_futures=True)
