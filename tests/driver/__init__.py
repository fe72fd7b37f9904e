"""The fake driver: build it, describe a machine to it, run child processes that load it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from affinity.testing.machines import Machine

SOURCE = Path(__file__).parent / "nvml.c"
CUDA_SOURCE = Path(__file__).parent / "cuda.c"

#: NVML error codes (NVML API Reference, nvmlReturn_t).
NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, GPU_IS_LOST, UNKNOWN = 3, 4, 9, 15, 999


def build(directory: Path, *, old: bool = False) -> Path:
    """A directory for LD_LIBRARY_PATH, with the library in it."""
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / "libnvidia-ml.so.1"
    options = ["-DOLD"] if old else []
    subprocess.run(
        ["gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *options, "-o", str(library), str(SOURCE)],
        check=True,
    )
    return directory


def build_cuda(directory: Path) -> Path:
    """A directory for LD_LIBRARY_PATH, with a driver for cuda-bindings in it (see cuda.c)."""
    library = directory / "libcuda.so.1"
    options = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(CUDA_SOURCE), "-ldl"]
    subprocess.run(["gcc", *options], check=True)
    return directory


def describe(machine: Machine, *extra: str, affinity: bool = True) -> str:
    """What the driver of this machine would show of its NVIDIA GPUs: the text for `FAKE_NVML`.

    affinity: False for a driver that shows no memory and CPU affinity. extra: more lines.
    """
    lines = []
    for i, gpu in enumerate(g for g in machine.gpus if g.vendor == "nvidia"):
        domain, rest = str(gpu.pci).split(":", 1)
        lines.append(f"gpu {int(domain, 16):08X}:{rest.upper()} {gpu.uuid} {gpu.device:#x} {gpu.model or 'a GPU'}")
        if not affinity:
            continue
        nodes = gpu.memory_affinity if gpu.memory_affinity is not None else ("" if gpu.node is None else str(gpu.node))
        cpus = gpu.cpu_affinity if gpu.cpu_affinity is not None else machine.local_cpus(gpu.node)
        lines += [f"memory {i} {nodes}"] if str(nodes) else []
        lines += [f"cpu {i} {cpus}"] if cpus else []
    return "\n".join([*lines, *extra, ""])


def environment(library: Path, reported: str, directory: Path) -> dict[str, str]:
    """This process's environment with the fake driver in it, and a log of the driver's functions called."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "machine.txt").write_text(reported, encoding="ascii")
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(library),
        "FAKE_NVML": str(directory / "machine.txt"),
        "FAKE_NVML_LOG": str(directory / "calls.txt"),
    }


def four_gpus(directory: Path) -> dict[str, str]:
    """The variables of a driver with four GPUs of one model on buses 1 to 4; skip if pynvml is not installed.

    The UUID of GPU i begins with `GPU-i`. CPU 0 is next to GPUs 0 and 2, CPU 1 to GPUs 1 and 3.
    """
    pytest.importorskip("pynvml", reason="nvidia-ml-py is optional: pip install numa-affinity[nvml]")
    text = "".join(f"gpu 00000000:0{i + 1}:00.0 GPU-{i}{i:07}-aaaa 0x2330 a GPU\nmemory {i} 0\n" for i in range(4))
    variables = environment(build(directory), text, directory)
    placed = {"AFFINITY_DEVICES": "nvml", "AFFINITY_NODES": "", "AFFINITY_POLICY": "explicit"}
    added = {name: value for name, value in variables.items() if os.environ.get(name) != value}
    return {**added, **placed, "AFFINITY_CPUS": "0|1|0|1"}


def calls(directory: Path) -> list[str]:
    """The driver's functions called so far."""
    log = directory / "calls.txt"
    return log.read_text(encoding="ascii").split() if log.exists() else []


class Child:
    """A process with the real pynvml on the fake driver, asked as often as one likes (see worker.py)."""

    def __init__(self, library: Path, directory: Path) -> None:
        self.directory = directory
        self._process = subprocess.Popen(
            [sys.executable, str(SOURCE.parent / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(library, "", directory),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()

    def ask(self, machine: str, reported: str, *references: str, **more: Any) -> dict[str, Any]:
        """What the inventory of a named machine gives; `providers` are nvml alone where nothing else is printed."""
        request = {"machine": machine, "reported": reported, "references": references, "providers": ["nvml"], **more}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the child ended: its traceback is above"
        answer: dict[str, Any] = json.loads(line)
        return answer
