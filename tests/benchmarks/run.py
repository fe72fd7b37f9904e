"""Runs every benchmark of this folder, or those named: `python tests/benchmarks/run.py bench_start`."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

#: Benchmarks of what is seldom installed; they run where it is.
NEEDS = {"bench_sglang": "sglang", "bench_gpu": "torch"}

#: tox sets PYTHONSAFEPATH, with which a script does not find the modules of its own folder.
START = (
    "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_path('/'.join(sys.argv[1:]), run_name='__main__')"
)


def main() -> int:
    here = Path(__file__).parent
    every = sorted(p.stem for p in here.glob("bench_*.py"))
    named = sys.argv[1:] or [name for name in every if name not in NEEDS or find_spec(NEEDS[name])]
    failed = 0
    for name in named:
        print(f"-- {name}", flush=True)
        failed |= subprocess.run([sys.executable, "-c", START, str(here), f"{name}.py"], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
