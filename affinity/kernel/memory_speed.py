"""How fast CPUs of this process reach memory of a node. The calling thread's memory policy decides the node.

The functions allocate pages of their own, so that no page is where it was before the policy. They need numpy.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

_LINE = 64  # bytes: a load that hits the line of the one before would be no load from memory
_CHUNK = 100_000  # loads between two looks at the clock

#: f(address, count): follow `count` pointers, each of which is at the address that the one before contains.
#: x86-64: mov (%rdi),%rdi; dec %rsi; jnz; mov %rdi,%rax; ret. AArch64: ldr x0,[x0]; subs x1,x1,#1; b.ne; ret.
_CHASE = {
    "x86_64": bytes.fromhex("488b3f 48ffce 75f8 4889f8 c3"),
    "aarch64": bytes.fromhex("000040f9 210400f1 c1ffff54 c0035fd6"),
}


def emulated_processor(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Return whether a program emulates the processor: all nodes are then equally far. Source: QEMU's cpu models.

    QEMU names its x86 models after itself; for AArch64 it reports implementer 0, which Arm reserves for software.
    """
    with open(cpuinfo, encoding="utf-8", errors="replace") as lines:
        fields = (line.partition(":") for line in lines)
        named = {(key.strip(), value.strip()) for key, _, value in fields}
    return ("CPU implementer", "0x00") in named or any(k == "model name" and v.startswith("QEMU") for k, v in named)


def new_pages(size: int) -> Any:
    """Return an array of `size` bytes in pages of its own, all of them touched; huge pages where there are some."""
    import numpy as np

    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(pages, np.uint8)
    array.fill(1)
    return array


def copy_bandwidth(size: int, cpus: Sequence[int], seconds: float = 0.2) -> float:
    """Return bytes per second, read and written ones together, of copies of `size` bytes by a thread on each CPU.

    So counts STREAM's Copy (https://www.cs.virginia.edu/stream/ref.html).
    """
    import numpy as np

    source, target = new_pages(size), new_pages(size)
    together = threading.Barrier(len(cpus))

    def copy(cpu: int, number: int) -> tuple[float, float, int]:
        os.sched_setaffinity(0, {cpu})
        part = slice(size * number // len(cpus), size * (number + 1) // len(cpus))
        together.wait()
        began, copied = time.perf_counter(), 0
        while True:
            np.copyto(target[part], source[part])
            copied += part.stop - part.start
            ended = time.perf_counter()
            if ended - began >= seconds:
                return began, ended, copied

    with ThreadPoolExecutor(len(cpus)) as threads:
        runs = list(threads.map(copy, cpus, range(len(cpus))))
    began, ended = min(run[0] for run in runs), max(run[1] for run in runs)
    return 2 * sum(run[2] for run in runs) / (ended - began)


def load_latency(size: int, seconds: float = 0.2) -> float | None:
    """Return seconds per load, each from the address that the one before has read: lines of `size` bytes at random.

    None where there are no instructions for this processor, or the kernel refuses to run them.
    """
    import numpy as np

    chase = _chase()
    if chase is None:
        return None
    words = new_pages(size).view(np.uintp)
    first = words.ctypes.data
    lines = first + np.random.default_rng(0).permutation(size // _LINE).astype(np.uintp) * np.uintp(_LINE)
    words[(lines - np.uintp(first)) // np.uintp(words.itemsize)] = np.roll(lines, -1)
    at, done = chase(int(lines[0]), _CHUNK), 0
    began = now = time.perf_counter()
    while now - began < seconds:
        at = chase(at, _CHUNK)
        done += _CHUNK
        now = time.perf_counter()
    return (now - began) / done


def _chase() -> Callable[[int, int], int] | None:
    """Return the function of `_CHASE`; it is a file in memory, as a library is, because AArch64 caches instructions."""
    code = _CHASE.get(os.uname().machine)
    if code is None:
        return None
    import numpy as np

    try:
        file = os.memfd_create("chase")
        try:
            os.write(file, code)
            pages = mmap.mmap(file, len(code), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
        finally:
            os.close(file)
    except OSError:
        return None
    text = np.frombuffer(pages, np.uint8)
    function = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t)(text.ctypes.data)
    function.text = text  # type: ignore[attr-defined]  # as long as the function
    return function
