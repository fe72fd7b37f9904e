"""Start of the real SGLang with two schedulers, with and without the plugin of this package, in turn.

Two placeholder GPUs, each next to every CPU, so that both ways have the same CPUs. Run it where SGLang is installed:
`tox run -e engines-sglang -- python tests/benchmarks/run.py bench_sglang`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from _timing import milliseconds, ratio, wall

ROUNDS = 7
LIMIT = 1.02


def main() -> int:
    engines = Path(__file__).parent.parent / "engines"
    with tempfile.TemporaryDirectory() as folder:
        for rank in (0, 1):
            (Path(folder) / f"{rank}.read").touch()  # no scheduler waits for a test
        environ = {
            **os.environ, "SGLANG_TEST_FOLDER": folder, "PYTHONPATH": str(engines / "sglang_site"),
            "AFFINITY_NODES": "0,0", "AFFINITY_DEVICES": "pci",
        }  # fmt: skip
        start = [sys.executable, str(engines / "sglang_program.py"), folder, "{}"]
        commands = {"with": ["env", "SGLANG_PLUGINS=affinity", *start], "without": ["env", "SGLANG_PLUGINS=-", *start]}
        wall(commands, 1, environ)  # files in the page cache
        ratio("processor time of an engine start", "with", "without", milliseconds(commands, ROUNDS, environ))
        return not ratio("wall time of an engine start", "with", "without", wall(commands, ROUNDS, environ), LIMIT)


if __name__ == "__main__":
    sys.exit(main())
