"""Copies from pinned memory to a GPU, in a process with a CUDA context, while it is looked at and bound from outside.

It takes a GPU and torch with CUDA. Each act is done ten times within a second of copies; the peer is a second in which
nothing is done. Goal: the median copy takes at most 1.02 times as long, the longest at most 5 ms longer.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import affinity
from affinity import CpuSet, Settings
from affinity.report.processes import GpuProcesses

COPIES = """
import sys, threading, time, torch
block = torch.empty(64 << 20, dtype=torch.uint8, pin_memory=True).fill_(1)
host = torch.empty(1 << 30, dtype=torch.uint8).fill_(1)
target = block.to("cuda")
print("ready", flush=True)
for _ in sys.stdin:
    times, end = [], time.perf_counter() + 1
    while (begin := time.perf_counter()) < end:
        target.copy_(block, non_blocking=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    times.sort()
    print(times[len(times) // 2], times[-1], flush=True)
"""


def main() -> int:
    command = [sys.executable, "-c", COPIES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        if running.stdout.readline() != "ready\n":
            print("skipped: no torch with CUDA, or no GPU")
            return 0
        reader = GpuProcesses.of(settings=Settings())
        (row,) = reader.rows(reader.uses()[0], pids=[running.pid])
        print(f"{row.use.evidence.value} GPU {row.use.gpu} ({row.use.reason}), {len(row.state.threads)} threads")
        cpus = list(row.state.cpus)
        halves = [CpuSet(cpus[: len(cpus) // 2]), CpuSet(cpus[len(cpus) // 2 :])]

        def attach() -> None:
            halves.reverse()
            settings = Settings(policy="explicit", cpus=(halves[0],) * len(reader.gpus))
            affinity.attach(running.pid, settings=settings, widen=True)
            tasks = Path(f"/proc/{running.pid}/task").iterdir()
            masks = [(task / "status").read_text().partition("Cpus_allowed_list:\t")[2].split()[0] for task in tasks]
            assert set(masks) == {str(halves[0])}, masks

        acts: dict[str, Callable[[], object]] = {
            "nothing": lambda: None,
            "ps": lambda: reader.rows(reader.uses()[0]),
            "attach": attach,
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in acts}
        for _ in range(7):
            for name, act in acts.items():
                print(file=running.stdin, flush=True)
                for _ in range(10):
                    act()
                median, longest = map(float, running.stdout.readline().split())
                found[name].append((median, longest))
        running.stdin.close()
    least = {name: (min(m for m, _ in times), min(n for _, n in times)) for name, times in found.items()}
    (median, longest), good = least["nothing"], True
    print(f"nothing: median {median * 1e3:.2f} ms, longest {longest * 1e3:.2f} ms")
    for name in ("ps", "attach"):
        ratio, longer = least[name][0] / median, (least[name][1] - longest) * 1e3
        met = ratio <= 1.02 and longer <= 5
        good &= met
        print(f"{name}: median {ratio:.3f} times that, longest {longer:+.2f} ms: {'yes' if met else 'NO'}")
    return not good


if __name__ == "__main__":
    sys.exit(main())
