"""Foreign processes to attach to: a server in C and one in Python, each given orders by lines (see server.c)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from affinity import CpuSet

SOURCE = Path(__file__).parent / "server.c"

#: The same orders in Python, as far as tests need them: threads that wait, and memory.
PYTHON = """
import mmap, os, sys, threading
kept = []
print(os.getpid(), flush=True)
for line in sys.stdin:
    order, *words = line.split()
    answer = ""
    if order == "thread":
        thread = threading.Thread(target=threading.Event().wait, daemon=True)
        thread.start()
        answer = thread.native_id
    elif order == "touch":
        block = mmap.mmap(-1, int(words[0]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block.madvise(mmap.MADV_NOHUGEPAGE)
        for offset in range(0, len(block), mmap.PAGESIZE):
            block[offset] = 1
        kept.append(block)
    print(answer, flush=True)
"""


def build(directory: Path) -> Path:
    """Compile the server; return the program."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "server"
    subprocess.run(
        ["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-pthread", "-o", str(program), str(SOURCE)], check=True
    )
    return program


class Server:
    """A server that runs. program: the C one; None for the Python one."""

    def __init__(self, program: Path | None, *prefix: str, environ: Mapping[str, str] | None = None) -> None:
        command: Sequence[str] = [str(program)] if program is not None else [sys.executable, "-c", PYTHON]
        self.running = subprocess.Popen(
            [*prefix, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **(environ or {})},
        )
        assert self.running.stdout is not None
        self.pid = int(self.running.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.running.kill()
        self.running.communicate()

    def order(self, *words: object) -> str:
        """Give an order; return the answer."""
        self.give(*words)
        return self.answer()

    def give(self, *words: object) -> None:
        assert self.running.stdin is not None
        print(*words, file=self.running.stdin, flush=True)

    def answer(self) -> str:
        assert self.running.stdout is not None
        return self.running.stdout.readline().strip()

    def threads(self, number: int) -> list[int]:
        """Start this many threads; return their ids."""
        return [int(self.order("thread")) for _ in range(number)]

    def masks(self) -> dict[int, CpuSet]:
        """CPUs of each thread, from its status file."""
        found = {}
        for tid in os.listdir(f"/proc/{self.pid}/task"):
            try:
                status = Path(f"/proc/{self.pid}/task/{tid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            lines = dict(line.partition(":")[::2] for line in status.splitlines())
            found[int(tid)] = CpuSet.parse(lines["Cpus_allowed_list"])
        return found

    def mask(self) -> CpuSet:
        """The CPUs of all threads, which are the same."""
        (mask,) = set(self.masks().values())
        return mask

    def pages(self) -> dict[int, int]:
        """Its touched pages by node, as it sees them itself."""
        pairs = (part.partition(":") for part in self.order("pages").split())
        return {int(node): int(pages) for node, _, pages in pairs}
