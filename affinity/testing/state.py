"""What a strategy must leave as it was, by name; and the surroundings that its answers must not depend on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from affinity.kernel.linux import THIS_PROCESS
from affinity.testing.fakehost import FakeHost
from affinity.testing.simkernel import SimulatedKernel


def state_of(fake: FakeHost) -> dict[str, object]:
    """Return the state of every process of a simulated machine, and of the process that runs the tests."""
    found: dict[str, object] = {"cpuset": (fake.kernel.cpuset, fake.kernel.allowed_memory)}
    for process in fake.kernel.processes():
        assert isinstance(process, SimulatedKernel)
        of = "" if process is fake.kernel else f" of process {process.pid}"
        found |= {
            f"CPU masks{of}": process.masks,
            f"memory policies{of}": process.policies,
            f"environment variables{of}": dict(process.environ),
        }
    return found | {f"{name} of the process that runs the tests": value for name, value in _own_state().items()}


def _own_state() -> dict[str, object]:
    return {
        "CPU mask": THIS_PROCESS.get_affinity(),
        "memory policy": THIS_PROCESS.get_mempolicy(),
        "scheduling policy": (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority),
        "nice value": os.getpriority(os.PRIO_PROCESS, 0),
        "environment variables": dict(os.environ),
        "open descriptors": _descriptors(),
        "current directory": os.getcwd(),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
    }


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def assert_unchanged(before: Mapping[str, object], after: Mapping[str, object]) -> None:
    """Raise AssertionError, with name and values, for what is not as in an earlier `state_of`.

    A process started since is left out.
    """
    changed = [
        f"{name}: {_part(was, after.get(name))} before, {_part(after.get(name), was)} after"
        for name, was in before.items()
        if after.get(name) != was
    ]
    if changed:
        raise AssertionError("; ".join(changed))


def _part(value: object, other: object) -> object:
    """Return what of a value is not in the other one."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return {key: part for key, part in value.items() if key not in other or other[key] != part}
    return value


def variables_read(call: Callable[[], object]) -> set[str]:
    """Return the names of the variables that a call looks up in `os.environ`."""
    lookup, found = type(os.environ).__getitem__.__code__, set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is lookup:
            found.add(frame.f_locals["key"])

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return found


@contextmanager
def variables(changed: Mapping[str, str | None]) -> Iterator[None]:
    """Within the block, `os.environ` has these values, None for variables that are not set."""
    before = dict(os.environ)
    try:
        for name, text in changed.items():
            os.environ.pop(name, None)
            if text is not None:
                os.environ[name] = text
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def one_cpu() -> Iterator[None]:
    """Within the block, the calling thread may run on one CPU, where the system allows that."""
    before = os.sched_getaffinity(0)
    with suppress(OSError):
        os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, before)


_opened: list[str] | None = None
_hooked = False


@contextmanager
def kernel_files_opened() -> Iterator[list[str]]:
    """Yield a list, to which each file and folder of /proc and /sys is appended that is opened within the block."""
    global _opened, _hooked
    if not _hooked:
        sys.addaudithook(_note_opened)  # which cannot be removed
        _hooked = True
    found: list[str] = []
    _opened = found
    try:
        yield found
    finally:
        _opened = None


def _note_opened(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event in ("open", "os.listdir", "os.scandir"):
        path = str(arguments[0])
        if f"{path}/".startswith(("/proc/", "/sys/")):
            _opened.append(path)
