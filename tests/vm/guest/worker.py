"""A worker as production has them: threads and pages before it is bound, more after. Prints one line of JSON.

Run as a program: `worker.py MODE STRATEGY NODE MIB`, MODE being inline (bind in process), born (started bound),
spawn (starts such a worker inside `spawning()`) or nothing (never bound).
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
import threading
from pathlib import Path
from typing import Any

import affinity
from affinity import Host, Settings

PAGE = mmap.PAGESIZE
MOVE_PAGES = {"x86_64": 279, "aarch64": 239}[os.uname().machine]


def node_cpus() -> dict[int, set[int]]:
    """CPUs of each node that has some, from sysfs, by hand."""
    found = {}
    for path in Path("/sys/devices/system/node").glob("node[0-9]*"):
        cpus: set[int] = set()
        for part in (path / "cpulist").read_text().strip().split(","):
            low, _, high = part.partition("-")
            cpus |= set(range(int(low), int(high or low) + 1)) if part else set()
        if cpus:
            found[int(path.name[4:])] = cpus
    return found


def touch(mib: int) -> mmap.mmap:
    """Anonymous memory, each page written by the calling thread."""
    block = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.madvise(mmap.MADV_NOHUGEPAGE)
    for offset in range(0, mib << 20, PAGE):
        block[offset] = 1
    return block


def touch_everywhere(mib: int) -> list[mmap.mmap]:
    """The same, an equal part from the CPUs of each node: pages of a process that ran anywhere."""
    mine = os.sched_getaffinity(0)
    nodes = node_cpus()
    blocks = []
    for cpus in nodes.values():
        if cpus & mine:
            os.sched_setaffinity(0, cpus & mine)
        blocks.append(touch(mib // len(nodes)))
    os.sched_setaffinity(0, mine)
    return blocks


def nodes_of(blocks: list[mmap.mmap]) -> dict[str, int]:
    """Pages by node, asked of the kernel page by page: move_pages(2) with no target.

    Each page is read first: automatic NUMA balancing takes pages away to see that wants them, and a page that is
    away has no node.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    found: dict[str, int] = {}
    for block in blocks:
        start = ctypes.addressof(ctypes.c_char.from_buffer(block))
        count = len(block) // PAGE
        assert all(block[i * PAGE] for i in range(count))
        pages = (ctypes.c_void_p * count)(*(start + i * PAGE for i in range(count)))
        status = (ctypes.c_int * count)()
        if libc.syscall(MOVE_PAGES, 0, ctypes.c_ulong(count), pages, None, status, 0) < 0:
            raise OSError(ctypes.get_errno(), "move_pages")
        for node in status:
            found[str(node)] = found.get(str(node), 0) + 1
    return found


def masks() -> dict[str, list[int]]:
    """CPUs of every thread, from the status files."""
    return {t: sorted(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")}


def anonymous_bytes() -> dict[int, int]:
    """Bytes of anonymous pages by node."""
    return dict(Host.live().kernel.resident_bytes())


def policy() -> str:
    """Of the calling thread, from numa_maps: it is that of the mapping where a fresh page lies."""
    block = touch(1)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    with open("/proc/thread-self/numa_maps") as maps:
        mappings = [(int(start, 16), policy) for start, policy, *_ in map(str.split, maps)]
    return max((start, policy) for start, policy in mappings if start <= address)[1]


def work(mode: str, strategy: str, node: int, mib: int, threads: int = 20) -> dict[str, Any]:
    """Live a worker's life; what the kernel states at its end. An actor is bound where Ray gave it a GPU."""
    stop = threading.Event()
    for _ in range(threads - 1):
        threading.Thread(target=stop.wait, daemon=True).start()
    born = mode in ("born", "spawned")
    early = [touch(mib)] if born else touch_everywhere(mib)
    report = None
    if mode != "nothing":
        settings = Settings(strategies=() if strategy == "auto" else (strategy,))
        report = affinity.bind(node=None if born or mode == "actor" else node, settings=None if born else settings)
    before_late = masks()
    late = [touch(16)]
    threading.Thread(target=stop.wait, daemon=True).start()
    return {
        "masks": masks(),
        "threads": len(before_late),
        "policy": policy(),
        "early": nodes_of(early),
        "late": nodes_of(late),
        "own": anonymous_bytes(),
        "strategy": report.strategy if report else "",
        "already": report.already_bound if report else False,
        "satisfied": report.satisfied if report else False,
        "share": report.local_share if report else None,
        "moved": report.moved if report else 0,
        "seconds": report.outcome.seconds if report else 0,
        "degradations": [str(d) for d in report.degradations] if report else [],
    }


def spawned(queue: Any, mib: int) -> None:
    """The body of a `multiprocessing` worker."""
    queue.put(work("spawned", "auto", -1, mib))


def main() -> None:
    mode, strategy, node, mib = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if mode == "spawn":
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        worker = context.Process(target=spawned, args=(queue, mib))
        with affinity.spawning(node=node, settings=Settings(strategies=(strategy,))):
            worker.start()
        result = queue.get(timeout=120)
        worker.join()
        result["parent"] = sorted(os.sched_getaffinity(0))
    else:
        result = work(mode, strategy, node, mib)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
