"""`affinity watch` on a node with 2,000 processes, as in bench_ps: the share of one core that it takes for good.

The peer is a round of a full `ps` in the same process. It takes root, and three minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import driver
from bench_ps import ON_GPUS, PROCESSES, THREADS, started
from mounted import machine, mounted

INTERVAL, LIMIT = 2.0, 0.01

#: Rounds against a clock that runs ahead: half an hour of them, so that all that is looked at ever more rarely counts.
_ROUNDS = """
import logging, resource, sys, time
from affinity.report.processes import GpuProcesses
from affinity.kernel.privileges import drop_capabilities
from affinity.watch import Watch

interval, limit = map(float, sys.argv[1:])
logging.disable()
now = [0.0]
drop_capabilities()
reader = GpuProcesses.of()
watch = Watch(reader, None, clock=lambda: now[0])
def seconds(call):
    begin = time.process_time()
    call()
    return time.process_time() - begin
def round():
    now[0] += interval
    watch.round()
first = seconds(round)
younger = [seconds(round) for _ in range(int(60 / interval))]
for _ in range(int(1800 / interval)): round()
steady = [seconds(round) for _ in range(int(600 / interval))]
peer = min(seconds(lambda: reader.rows(reader.uses()[0])) for _ in range(3))
share = sum(steady) / 600
shares = f"{share:.2%} of a core at {interval:g} s, at most {limit:.0%}: {'yes' if share <= limit else 'NO'}"
print(f"  {shares}; a round {sorted(steady)[len(steady) // 2] * 1e3:.2f} ms, the longest {max(steady) * 1e3:.0f} ms")
print(f"  the first round, which binds, {first * 1e3:.0f} ms; the first minute {sum(younger) / 60:.2%}")
print(f"  a full ps each time: {peer / interval:.1%} of a core; ratio {share / (peer / interval):.4f}")
print(f"  resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB", flush=True)
"""


def main() -> None:
    if os.geteuid() != 0:
        print("skipped: it makes a mount namespace, which takes root")
        return
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        described = machine()
        library = driver.build(here / "library")
        with mounted(here / "root", described) as there, started(there) as pids:
            listed = [f"compute {number % 2} {pid}" for number, pid in enumerate(pids[:ON_GPUS])]
            nvml = driver.environment(library, driver.describe(described, *listed), here / "driver")
            del nvml["FAKE_NVML_LOG"]
            print(f"{PROCESSES} processes, {ON_GPUS} of them on GPUs with {THREADS} threads each")
            for name, env in (("NVML", nvml), ("open files", {**os.environ, "AFFINITY_DEVICES": "pci"})):
                print(name, flush=True)
                command = [*there.prefix, sys.executable, "-c", _ROUNDS, str(INTERVAL), str(LIMIT)]
                subprocess.run(command, env={**env, "XDG_RUNTIME_DIR": folder}, check=True)


if __name__ == "__main__":
    main()
