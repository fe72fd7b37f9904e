"""`LinuxProcess`: another process of this machine, by its PID. Source: proc(5)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from affinity.kernel.procfs import PARENT, identity_text, process_age, read_stat, start_time, xoption


class LinuxProcess:
    """A process that runs now, and stays the same one: a PID that was given to another process is ProcessLookupError.

    Raises ProcessLookupError if there is no such process, OSError if /proc does not show it.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._directory = f"/proc/{pid}"
        try:
            self._started = start_time(self._directory)
        except FileNotFoundError as ended:
            raise ProcessLookupError(ended.errno, "no such process", self._directory) from None

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def is_this_process(self) -> bool:
        return False

    def identity(self) -> str:
        return identity_text(self._directory, self._pid)

    @property
    def environ(self) -> Mapping[str, str]:
        """Its initial variables. PermissionError for another user's process."""
        fields = (field.partition("=") for field in self._read("environ").split("\0"))
        return {name: value for name, equals, value in fields if equals}

    @property
    def handoff(self) -> str:
        return xoption(self._read("cmdline").split("\0"), "affinity")

    def parent(self) -> LinuxProcess | None:
        return process_of(int(read_stat(self._directory)[PARENT]))

    def age(self) -> float:
        return process_age(self._directory, time.clock_gettime(time.CLOCK_BOOTTIME))

    def _read(self, name: str) -> str:
        """Return a file of this very process. ProcessLookupError if its PID belongs to another one now."""
        with open(f"{self._directory}/{name}", "rb") as file:
            text = os.fsdecode(file.read())
        if start_time(self._directory) != self._started:
            raise ProcessLookupError(0, "the process has ended; its PID belongs to another one", self._directory)
        return text


def process_of(pid: int) -> LinuxProcess | None:
    """Return the process of this PID, None if it has ended, is of another PID namespace (0) or cannot be seen."""
    try:
        return LinuxProcess(pid) if pid > 0 else None
    except OSError:
        return None
