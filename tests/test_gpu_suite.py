"""The tests of tests/gpu, run on a driver of ours: they pass where a GPU is, and are skipped with the reason elsewhere.

What a real GPU shows is known only where there is one (`tox -e gpu`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import driver
import pytest

SUITE = Path(__file__).parent / "gpu"
UUID = "GPU-8f2c1c4e-0000-1111-2222-333344445555"
SMI = f"""#!/bin/sh
case $1 in
    -L) echo "GPU 0: a GPU (UUID: {UUID})";;
    *) echo "0, {UUID}, 00000000:1B:00.0, a GPU, 580.00";;
esac
"""


def run(environ: dict[str, str]) -> list[str]:
    """Run the suite; return the lines of its output."""
    command = [sys.executable, "-m", "pytest", "-rs", "-v", "-p", "no:cacheprovider", "--confcutdir", str(SUITE),
               str(SUITE)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def test_the_suite_passes_on_a_driver(tmp_path: Path) -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is optional: pip install numa-affinity[nvml]")
    smi = tmp_path / "nvidia-smi"
    smi.write_text(SMI)
    smi.chmod(0o755)
    library = driver.build_cuda(driver.build(tmp_path))
    environ = driver.environment(library, f"gpu 00000000:1B:00.0 {UUID} 0x2330 a GPU\nmemory 0 0\n", tmp_path)
    environ |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FAKE_CUDA": "0000:1b:00.0", "AFFINITY_DEVICES": "nvml"}
    lines = run(environ)
    assert any(line.endswith(": 1 x a GPU, driver 580.00") for line in lines)
    assert "9 passed" in lines[-1]


def test_without_a_gpu_the_suite_is_skipped_with_the_reason(tmp_path: Path) -> None:
    lines = run({**os.environ, "PATH": str(tmp_path)})
    assert "no NVIDIA GPU: nvidia-smi is not on PATH" in lines
    assert "9 skipped" in lines[-1]
