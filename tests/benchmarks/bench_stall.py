"""How long a serving process waits: the longest mmap, write and munmap of a loop in it, while it is looked at or bound.

The target is the C server of the tests with 1, 4 and 8 GiB of pages of 4 KiB (`--gib`; less where memory is short).
For its bind of itself, late in its life, a Python process with as much memory runs the same loop in another thread.
Beside each: nothing at all, and a reading of the target's numa_maps. Goal: ours add no more than 5 ms to the loop's own
worst. On a machine with one node pages are looked for, but have no other node to be copied to.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from server import Server, build

import affinity
from affinity import NodeSet, Settings
from affinity.kernel.linux import THIS_PROCESS
from affinity.report.observed import Observed
from affinity.report.processes import GpuProcesses

ROUNDS = 7
SECONDS = 1.0
BLOCK = 1 << 20
GIB = 1 << 30

#: A process that binds itself late: its main thread binds, a thread of C code measures.
LATE = """
import ctypes, mmap, sys, threading, time
import affinity
from affinity.kernel.linux import THIS_PROCESS
size = int(sys.argv[1])
block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block.madvise(mmap.MADV_NOHUGEPAGE)
ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(block)), 1, size)
server = ctypes.CDLL(sys.argv[2])
server.longest_call.restype = ctypes.c_double
server.longest_call.argtypes = [ctypes.c_double, ctypes.c_size_t]
found = []
nodes = affinity.Host.live().topology.memory_nodes
for round in range(int(sys.argv[3])):
    for act in (lambda: None, lambda: open("/proc/self/numa_maps").read(), None):
        if act is None:
            node = list(nodes)[round % len(nodes)]
            act = lambda: affinity.bind(node=node)
        thread = threading.Thread(target=lambda: found.append(server.longest_call(1.0, 1 << 20)))
        thread.start()
        time.sleep(0.2)
        act()
        thread.join()
print(*found)
"""


def during(running: Server, act: Callable[[], object]) -> float:
    """The longest call of the target, in milliseconds, within a second in which `act` is done."""
    running.give("stall", SECONDS, BLOCK)
    time.sleep(0.2)
    act()
    return float(running.answer()) / 1000


def show(what: str, found: list[float], quiet: list[float]) -> None:
    low, middle, high = min(found), statistics.median(found), max(found)
    added = middle - statistics.median(quiet)
    print(f"  {what:34} median {middle:6.1f} ms, {low:.1f} to {high:.1f}; added {added:+.1f} ms")


def outside(program: Path, gib: float) -> None:
    """ps, audit and attach."""
    host = affinity.Host.live()
    nodes = list(host.topology.memory_nodes)
    with Server(program) as running:
        running.threads(19)
        running.order("touch", int(gib * GIB))
        process = THIS_PROCESS.process(running.pid)
        reader = GpuProcesses.of(settings=Settings())
        turn = iter(range(10**6))

        def attach() -> None:
            affinity.attach(running.pid, node=nodes[next(turn) % len(nodes)], settings=Settings())

        def chunks() -> None:
            process.migrate_pages(NodeSet(nodes), NodeSet([nodes[next(turn) % len(nodes)]]))

        acts: dict[str, Callable[[], object]] = {
            "nothing": lambda: None,
            "its numa_maps read": lambda: Path(f"/proc/{running.pid}/numa_maps").read_text(),
            "ps --pid": lambda: reader.rows([], pids=[running.pid]),
            "audit (Observed.read)": lambda: Observed.read(process),
            "attach": attach,
            "its pages looked for and moved": chunks,
        }
        found: dict[str, list[float]] = {name: [] for name in acts}
        for _ in range(ROUNDS):
            for name, act in acts.items():
                found[name].append(during(running, act))
    for name, times in found.items():
        show(name, times, found["nothing"])


def inside(library: Path, gib: float) -> None:
    """A late bind."""
    argv = [sys.executable, "-c", LATE, str(int(gib * GIB)), str(library), str(ROUNDS)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    times = [float(word) / 1000 for word in done.stdout.split()]
    quiet, maps, bound = times[0::3], times[1::3], times[2::3]
    show("nothing, in the process itself", quiet, quiet)
    show("its own numa_maps read", maps, quiet)
    show("a late bind", bound, quiet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", default="1,4,8")
    sizes = [float(size) for size in parser.parse_args().gib.split(",")]
    free = sum(map(THIS_PROCESS.available_bytes, THIS_PROCESS.allowed_nodes())) / GIB
    with tempfile.TemporaryDirectory() as directory:
        program = build(Path(directory))
        library = Path(directory) / "server.so"
        source = Path(__file__).resolve().parents[1] / "server/server.c"
        options = ["-O1", "-pthread", "-shared", "-fPIC", "-Dstatic=", "-o", str(library)]
        subprocess.run(["gcc", *options, str(source)], check=True)
        for size in sizes:
            if size * 1.5 > free:
                print(f"{size:g} GiB: left out, {free:.1f} GiB are free")
                continue
            print(f"{size:g} GiB in pages of 4 KiB, {len(THIS_PROCESS.allowed_nodes())} node(s):")
            outside(program, size)
            inside(library, size)


if __name__ == "__main__":
    main()
