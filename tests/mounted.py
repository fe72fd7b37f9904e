"""A machine with GPUs in a mount namespace: its /sys, /dev and /proc/driver lie over this machine's.

Processes, masks and memory are the real ones. It has node 0 with CPU 0 and node 1 with CPU 1, each with a GPU. Files
written below `root` appear at once: a `/dev/nvidiaN` is a plain file, which a process may hold open.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from affinity import CpuSet
from affinity.testing import trees
from affinity.testing.machines import Machine
from affinity.testing.machines.model import GiB, MachineGpu, MachineNode
from affinity.topology import PciAddress

GPU0, GPU1 = "0000:1b:00.0", "0000:3b:00.0"

#: Devices of the real /dev that programs need.
_KEPT = ("null", "zero", "urandom", "random", "tty", "ptmx")

_SCRIPT = """
set -e
for name in {kept}; do [ -e /dev/$name ] && touch {root}/dev/$name && mount --bind /dev/$name {root}/dev/$name; done
mount --bind /dev/pts {root}/dev/pts || true
mount --bind {root}/dev /dev
mount --bind {root}/sys /sys
mount --bind {root}/proc/driver /proc/driver
echo ready
exec sleep 600
"""


@attrs.define
class Mounted:
    """The namespace: `prefix` before a command runs it there.

    library: a directory in which programs look for libraries, as for the fake driver.
    """

    root: Path
    pid: int
    machine: Machine
    library: Path | None = None
    _runner: subprocess.Popen[str] | None = None

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("nsenter", "-t", str(self.pid), "-m", f"--wd={os.getcwd()}", "--")

    def affinity(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`affinity ARGUMENTS` there, with these variables added to the environment."""
        if self._runner is None:
            command = [*self.prefix, sys.executable, "-m", "mounted_program"]
            environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
            if self.library:
                environ["LD_LIBRARY_PATH"] = str(self.library)
            pipe = subprocess.PIPE
            self._runner = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=environ)
        assert self._runner.stdin is not None
        assert self._runner.stdout is not None
        print(json.dumps([arguments, variables]), file=self._runner.stdin, flush=True)
        answer = json.loads(self._runner.stdout.readline())
        assert answer is not None, "it ended by an error, which is above"
        return subprocess.CompletedProcess(list(arguments), *answer)

    def end(self) -> None:
        """End the process that ran the commands."""
        if self._runner is not None:
            self._runner.communicate()

    def file(self, gpu: int) -> str:
        """The device file of a GPU. No other machine on this computer has the same, whose processes are seen too."""
        return f"/dev/nvidia{_minor(gpu)}"

    def put(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)


def machine(vendor: str = "nvidia", *, nodes: tuple[int | None, int | None] = (0, 1)) -> Machine:
    """The machine; `nodes`: what sysfs shows for each GPU."""
    return Machine(
        nodes=tuple(MachineNode(i, CpuSet([i]), 8 * GiB, package=i) for i in (0, 1)),
        gpus=tuple(
            MachineGpu(PciAddress.parse(pci), node, vendor, device=0x2330)
            for pci, node in zip((GPU0, GPU1), nodes, strict=True)
        ),
    )


def _minor(gpu: int) -> int:
    return 2 * os.getpid() + gpu


@contextmanager
def mounted(root: Path, described: Machine, library: Path | None = None) -> Iterator[Mounted]:
    """Make the namespace; skip the test where none can be made."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here, which takes root; continuous integration can")
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("CPUs 0 and 1 are not both allowed here")
    trees.write(described, root)
    (root / "dev/pts").mkdir(parents=True)
    (root / "dev/dri").mkdir()
    (root / "proc/driver").mkdir(parents=True, exist_ok=True)
    for number, gpu in enumerate(described.gpus):
        if gpu.vendor == "nvidia":
            (root / f"dev/nvidia{_minor(number)}").touch()
            information = root / f"proc/driver/nvidia/gpus/{gpu.pci}/information"
            information.parent.mkdir(parents=True)
            information.write_text(f"Model: \t\t H100\nBus Location: \t {gpu.pci}\nDevice Minor: \t {_minor(number)}\n")
    for vendor in {gpu.vendor for gpu in described.gpus}:
        (root / {"amd": "dev/kfd", "nvidia": "dev/nvidiactl"}[vendor]).touch()
    script = _SCRIPT.format(kept=" ".join(_KEPT), root=root)
    with subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            made = Mounted(root, holder.pid, described, library)
            try:
                yield made
            finally:
                made.end()
        finally:
            holder.kill()
    shutil.rmtree(root)
