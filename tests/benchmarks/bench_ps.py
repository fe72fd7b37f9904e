"""`affinity ps` on a node with 2,000 processes: real ones that sleep, on a machine with GPUs in a mount namespace.

64 of them have a GPU's device file open, and 100 threads each; the others have 13 open files. NVML is the fake driver
of tests/driver. It takes root. Processor time of one table, of its parts, and of `--watch`'s further ones.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import driver
from mounted import Mounted, machine, mounted

PROCESSES, ON_GPUS, THREADS = 2000, 64, 100

_STARTER = """
import os, signal, sys, threading
count, on_gpus, threads = map(int, sys.argv[1:4])
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
files = [open("/dev/null") for _ in range(10)]
pids = []
for number in range(count):
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if number < on_gpus:
            kept = [open(sys.argv[4 + number % 2]), open("/dev/nvidiactl")]
            for _ in range(threads - 1):
                threading.Thread(target=signal.pause, daemon=True).start()
        signal.pause()
    pids.append(pid)
print(*pids, flush=True)
try:
    signal.pause()
finally:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
"""

_READER = """
import sys, time
from affinity.report.processes import GpuProcesses
clock, reader = time.process_time, GpuProcesses.of()
for turn in ("first", "next"):
    begin = clock(); uses, notes = reader.uses(); listed = clock(); rows = reader.rows(uses); end = clock()
    print(f"{turn} table: uses of GPUs {(listed - begin) * 1e3:.0f} ms, {len(rows)} rows {(end - listed) * 1e3:.0f} ms")
"""


@contextlib.contextmanager
def started(there: Mounted) -> Iterator[list[int]]:
    """The processes; they end with the block."""
    counts = map(str, (PROCESSES, ON_GPUS, THREADS))
    command = [*there.prefix, sys.executable, "-c", _STARTER, *counts, there.file(0), there.file(1)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        try:
            yield list(map(int, starter.stdout.readline().split()))
        finally:
            starter.terminate()


def seconds(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Of a processor and of the clock."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=env, check=False, stdout=subprocess.DEVNULL)
    assert done.returncode in (0, 1), done.returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        time.perf_counter() - begin,
    )


def main() -> None:
    if os.geteuid() != 0:
        print("skipped: it makes a mount namespace, which takes root")
        return
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        described = machine()
        library = driver.build(here / "library")
        affinity = str(Path(sys.executable).with_name("affinity"))
        with mounted(here / "root", described) as there, started(there) as pids:
            listed = [f"compute {number % 2} {pid}" for number, pid in enumerate(pids[:ON_GPUS])]
            nvml = driver.environment(library, driver.describe(described, *listed), here / "driver")
            del nvml["FAKE_NVML_LOG"]
            print(f"{PROCESSES} processes, {ON_GPUS} of them on GPUs with {THREADS} threads each")
            for name, env in (("NVML", nvml), ("open files", {**os.environ, "AFFINITY_DEVICES": "pci"})):
                times = [seconds([*there.prefix, affinity, "ps"], env) for _ in range(3)]
                print(f"{name}: affinity ps {min(t[0] for t in times):.2f} s of a processor, "
                      f"{min(t[1] for t in times):.2f} s of the clock", flush=True)  # fmt: skip
                subprocess.run([*there.prefix, sys.executable, "-c", _READER], env=env, check=True)


if __name__ == "__main__":
    main()
