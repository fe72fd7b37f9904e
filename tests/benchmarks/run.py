"""Runs every benchmark of this folder, or those named: `python tests/benchmarks/run.py bench_start`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    here = Path(__file__).parent
    named = sys.argv[1:] or sorted(p.stem for p in here.glob("bench_*.py"))
    failed = 0
    for name in named:
        print(f"-- {name}", flush=True)
        failed |= subprocess.run([sys.executable, str(here / f"{name}.py")], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
