"""Simulated programs that change a process before they execute a command: numactl, taskset; and Python's `-X`.

Sources: numactl(8), taskset(1). As with the real programs, CPUs or nodes that are not allowed are an error.
"""

from __future__ import annotations

import getopt
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from affinity import AffinityError, CpuSet, NodeSet
from affinity.kernel import MemoryMode, MemoryPolicy

if TYPE_CHECKING:
    from affinity.testing.simkernel import SimulatedKernel


class CommandFailed(AffinityError):
    """A program's exit with an error: `exit status 1: numactl: …`."""


_MEMORY = {
    "--membind": MemoryMode.BIND,
    "-m": MemoryMode.BIND,
    "--preferred": MemoryMode.PREFERRED,
    "-p": MemoryMode.PREFERRED,
    "--preferred-many": MemoryMode.PREFERRED_MANY,
    "-P": MemoryMode.PREFERRED_MANY,
    "--interleave": MemoryMode.INTERLEAVE,
    "-i": MemoryMode.INTERLEAVE,
}
_LONG = ["all", "localalloc", "physcpubind=", "cpunodebind=", *(f"{o[2:]}=" for o in _MEMORY if o.startswith("--"))]


def run(argv: Sequence[str], kernel: SimulatedKernel) -> list[str]:
    """Apply numactl and taskset at the front of `argv` to the process, and return the command after them.

    Raise CommandFailed if one of them would exit with an error instead of executing the command.
    """
    command = list(argv)
    while command:
        match os.path.basename(command[0]):
            case "numactl":
                command = _numactl(command, kernel)
            case "taskset":
                command = _taskset(command, kernel)
            case _:
                return command
    raise CommandFailed("exit status 1: no command was given")


def xoptions(argv: Sequence[str]) -> dict[str, str | bool]:
    """Return the `-X` options of a Python command line, as `sys._xoptions` has them."""
    found: dict[str, str | bool] = {}
    rest = list(argv[1:])
    while rest and rest[0].startswith("-") and rest[0] not in ("-c", "-m", "-"):
        option = rest.pop(0)
        if option.startswith("-X"):
            key, equals, value = (option[2:] or (rest.pop(0) if rest else "")).partition("=")
            found[key] = value if equals else True
        elif option in ("-W", "--check-hash-based-pycs") and rest:
            rest.pop(0)
    return found


def _numactl(argv: list[str], kernel: SimulatedKernel) -> list[str]:
    try:
        options, command = getopt.getopt(argv[1:], "aC:N:m:p:P:i:l", _LONG)
    except getopt.GetoptError as wrong:
        raise CommandFailed(f"exit status 1: numactl: {wrong}") from wrong
    everything = any(name in ("--all", "-a") for name, _ in options)
    try:
        for name, value in options:
            if name in ("--physcpubind", "-C"):
                cpus = CpuSet.parse(value)
                if not everything and not cpus <= kernel.get_affinity():
                    raise CommandFailed(f"exit status 1: libnuma: Warning: cpu argument {value} is out of range")
                kernel.set_affinity(0, cpus)
            elif name in _MEMORY:
                nodes = NodeSet.parse(value)
                if not nodes <= kernel.allowed_nodes():
                    raise CommandFailed(f"exit status 1: libnuma: Warning: node argument {value} is out of range")
                kernel.set_mempolicy(MemoryPolicy(_MEMORY[name], nodes))
            elif name in ("--localalloc", "-l"):
                kernel.set_mempolicy(MemoryPolicy(MemoryMode.LOCAL))
            elif name in ("--cpunodebind", "-N"):  # widens a narrowed mask, as the real program does
                kernel.set_affinity(0, kernel.topology.cpus_of(NodeSet.parse(value)))
    except OSError as refused:
        raise CommandFailed(f"exit status 1: numactl: {refused.filename}: {refused.strerror}") from refused
    return command


def _taskset(argv: list[str], kernel: SimulatedKernel) -> list[str]:
    if len(argv) < 4 or argv[1] not in ("-c", "--cpu-list"):
        raise CommandFailed("exit status 1: taskset: only `taskset -c LIST COMMAND` is simulated")
    try:
        kernel.set_affinity(0, CpuSet.parse(argv[2]))
    except OSError as refused:
        raise CommandFailed(f"exit status 1: taskset: failed to set pid 0's affinity: {refused.strerror}") from refused
    return argv[3:]
