"""What is repeated leaves nothing behind: the loops of benchmarks/soak.py, shorter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parent / "benchmarks" / "soak.py"


def test_memory_files_and_threads_are_flat() -> None:
    done = subprocess.run([sys.executable, str(SOAK), "200"], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^.*: \d+ rounds of .* ms, flat: ", done.stdout, re.MULTILINE)) == 9
