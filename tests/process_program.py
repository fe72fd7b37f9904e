"""A process to look at from outside: obeys one line of its input after another, and answers each with a line.

thread, end-thread TID, policy MODE [NODES] (of the main thread), touch BYTES, open FILE, undumpable; call DATA: a
call of its own kernel, whose name and arguments, and whose result or error, are pickled in base 64.
"""

from __future__ import annotations

import base64
import ctypes
import mmap
import os
import pickle
import sys
import threading

from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.kernel.linux import THIS_PROCESS
from affinity.topology import NodeSet

threads: dict[int, threading.Event] = {}
kept: list[mmap.mmap] = []
files: list[int] = []


def start_thread() -> int:
    """Start a thread that waits, and return its id."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, daemon=True)
    thread.start()
    assert thread.native_id is not None
    threads[thread.native_id] = end
    return thread.native_id


def end_thread(tid: int) -> None:
    """End a thread, and wait until the kernel has forgotten it."""
    threads.pop(tid).set()
    while tid in THIS_PROCESS.threads():
        pass


def touch(size: int) -> None:
    """Write to new memory."""
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.write(b"\1" * size)
    kept.append(block)


def call(data: str) -> str:
    """Return what its own kernel answers, or raises."""
    name, arguments = pickle.loads(base64.b64decode(data))
    try:
        found = getattr(THIS_PROCESS, name)
        answer = found(*arguments) if callable(found) else dict(found) if name == "environ" else found
    except OSError as refused:
        answer = refused
    return base64.b64encode(pickle.dumps(answer)).decode()


print(THIS_PROCESS.pid, flush=True)
for line in sys.stdin:
    order, *words = line.split()
    answer: object = ""
    match order:
        case "thread":
            answer = start_thread()
        case "end-thread":
            end_thread(int(words[0]))
        case "policy":
            THIS_PROCESS.set_mempolicy(MemoryPolicy(MemoryMode(words[0]), NodeSet.parse("".join(words[1:]))))
        case "touch":
            touch(int(words[0]))
        case "call":
            answer = call(words[0])
        case "open":
            files.append(os.open(words[0], os.O_RDONLY))
        case "undumpable":
            ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE, as of a program with capabilities of its own
    print(answer, flush=True)
