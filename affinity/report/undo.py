"""The undo record of `attach`: what a process had before, in a directory that only its user can read.

It is written before the first change and read by a later command. A file has the process's identity as its name (PID,
start time, boot), so that the record of an ended process never applies to another one with its PID.
"""

from __future__ import annotations

import json
import os
import stat
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import attrs

from affinity.errors import BindError, ListFormatError
from affinity.handoff import baseline_cpus, process_mask
from affinity.kernel.protocol import Kernel, Process, ancestors
from affinity.topology.cpuset import CpuSet

_VERSION = 1
_MONTH = 30 * 86400.0  # seconds
_LARGEST = 4 << 20  # bytes of a record that is read: one of 100,000 threads has a fifth of it


@attrs.frozen
class UndoRecord:
    """State of a process before `attach`.

    identity: of the process. cpus: the mask that was set. main: the mask of its main thread before. threads: those of
    all threads then. allowed: the CPUs that it could use before. strategy: the one that acted. when: seconds since the
    epoch.
    """

    identity: str
    cpus: CpuSet
    main: CpuSet
    threads: Mapping[int, CpuSet]
    allowed: CpuSet
    strategy: str = ""
    when: float = 0.0

    def mask_before(self, tid: int, mask: CpuSet, usable: CpuSet) -> CpuSet:
        """Return the mask that a thread had before, the main thread's for one started since; its own if set since.

        usable: as `usable_cpus` returns them.
        """
        return self.threads.get(tid, self.main) if mask == self.cpus & usable else mask

    def __str__(self) -> str:
        by_mask: dict[str, list[int]] = {}
        for tid, mask in self.threads.items():
            by_mask.setdefault(str(mask), []).append(tid)
        values = {"cpus": str(self.cpus), "main": str(self.main), "allowed": str(self.allowed), "threads": by_mask}
        return json.dumps({"version": _VERSION, "identity": self.identity, **values,
                           "strategy": self.strategy, "when": self.when})  # fmt: skip

    @classmethod
    def parse(cls, text: str) -> UndoRecord:
        """Raise ValueError if the text is not a record."""
        try:
            found: dict[str, Any] = json.loads(text)
            if found["version"] != _VERSION:
                raise ValueError(f"version {found['version']!r}, expected {_VERSION}")
            threads = {int(tid): CpuSet.parse(mask) for mask, tids in found["threads"].items() for tid in tids}
            masks = {name: CpuSet.parse(found[name]) for name in ("cpus", "main", "allowed")}
            return cls(identity=str(found["identity"]), threads=threads, strategy=str(found["strategy"]),
                       when=float(found["when"]), **masks)  # fmt: skip
        except (KeyError, TypeError, AttributeError, RecursionError, ListFormatError) as wrong:
            raise ValueError(f"{type(wrong).__name__}: {wrong}") from None


#: The records of simulated processes, by kernel and identity: none of them is written to this machine.
_simulated: weakref.WeakKeyDictionary[Kernel, dict[str, str]] = weakref.WeakKeyDictionary()


def read(process: Process, kernel: Kernel) -> UndoRecord | None:
    """Return the record of a process, None if there is none. Raise BindError if it cannot be trusted or read."""
    identity = process.identity()
    if not kernel.is_this_process:
        text = _simulated.get(kernel, {}).get(identity)
        return UndoRecord.parse(text) if text is not None else None
    for base in _bases(kernel.environ):
        directory = _directory(base, create=False)
        if directory is None:
            continue
        try:
            text = _read(directory, identity)
        finally:
            os.close(directory)
        if text is not None:
            return _checked(text, identity, base)
    return None


def usable_cpus(process: Process) -> CpuSet:
    """Return the CPUs that are online and in the cpuset of a process: the kernel shows a mask without the others."""
    return process.cpuset_cpus() & process.online()


def in_force(process: Process, kernel: Kernel) -> UndoRecord | None:
    """Return the record whose mask a process has: its own, or that of one that started it. Errors as `read`."""
    mask, usable = process_mask(process), usable_cpus(process)
    records = (read(one, kernel) for one in (process, *ancestors(process)))
    return next((record for record in records if record is not None and record.cpus & usable == mask), None)


def allowed_before(process: Process, record: UndoRecord | None) -> CpuSet:
    """Return the CPUs that a process may use, before this package narrowed them. record: the one in force."""
    return record.allowed if record is not None else baseline_cpus(process)


def write(record: UndoRecord, kernel: Kernel) -> None:
    """Write a record, and delete those of processes that have ended. Raise BindError if no directory can hold it."""
    if not kernel.is_this_process:
        _simulated.setdefault(kernel, {})[record.identity] = str(record)
        return
    directory = next((d for base in _bases(kernel.environ) if (d := _directory(base, create=True)) is not None), None)
    if directory is None:
        raise BindError("the undo record can be written nowhere: set XDG_RUNTIME_DIR to a directory of yours")
    try:
        _delete_ended(directory, kernel)
        temporary = f".{record.identity}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600, dir_fd=directory), "w", encoding="utf-8") as file:
            file.write(str(record))
        os.rename(temporary, record.identity, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as refused:
        raise BindError(f"the undo record cannot be written ({refused.strerror}): nothing was changed") from refused
    finally:
        os.close(directory)


def delete(identity: str, kernel: Kernel) -> None:
    """Delete the record of a process, if there is one."""
    if not kernel.is_this_process:
        _simulated.get(kernel, {}).pop(identity, None)
        return
    for base in _bases(kernel.environ):
        directory = _directory(base, create=False)
        if directory is not None:
            _unlink(directory, identity)
            os.close(directory)


def _bases(environ: Mapping[str, str]) -> list[str]:
    """Return where the directory may be; of root also where that of a service is, which no login ends.

    Sources: XDG Base Directory Specification; pam_systemd(8); systemd.exec(5), RuntimeDirectory.
    """
    home = os.path.expanduser("~")
    state = environ.get("XDG_STATE_HOME", "") or os.path.join(home, ".local/state")
    runtime = ("/run",) if os.geteuid() == 0 else (f"/run/user/{os.geteuid()}",)
    return [base for base in (environ.get("XDG_RUNTIME_DIR", ""), *runtime, state) if os.path.isabs(base)]


def _directory(base: str, *, create: bool) -> int | None:
    """Open the directory of the records below `base`, None if this user has none there.

    Raises BindError if it is a link or another user's, or if others may read or write it.
    """
    path = os.path.join(base, "affinity")
    try:
        if create and base.endswith("state"):  # a home's; the runtime directory is the login's to make
            os.makedirs(base, 0o700, exist_ok=True)
        if os.stat(base).st_uid != os.geteuid():  # as under sudo: the directory of the user that became root
            return None
        if create:
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
    except OSError:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as refused:
        raise BindError(f"{path} is no directory of undo records ({refused.strerror}): remove it") from refused
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(descriptor)
        mode = f"mode {found.st_mode & 0o777:03o}, owner {found.st_uid}"
        raise BindError(f"{path} is not this user's alone ({mode}): chmod it to 700 or remove it")
    return descriptor


def _read(directory: int, name: str) -> str | None:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as refused:
        raise BindError(f"the undo record {name} cannot be read ({refused.strerror}): remove it") from refused
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_size > _LARGEST:
            raise BindError(f"the undo record {name} is not a file of this user and of a usual size: remove it")
        with open(descriptor, encoding="utf-8", errors="replace", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _checked(text: str, identity: str, base: str) -> UndoRecord:
    try:
        record = UndoRecord.parse(text)
        if record.identity != identity:
            raise ValueError(f"it is that of process {record.identity}")
    except ValueError as wrong:
        path = os.path.join(base, "affinity", identity)
        raise BindError(f"{path}: no undo record of this version ({wrong}): remove it") from None
    return record


def _delete_ended(directory: int, kernel: Kernel) -> None:
    """Delete the records of ended processes: of another boot, which may be another machine's, after a month."""
    boot = kernel.identity().rpartition("-")[2]
    for name in os.listdir(directory):
        pid = name.lstrip(".").partition("-")[0]
        if not pid.isdecimal():
            continue
        try:
            if f"-{boot}" in name:
                ended = not name.lstrip(".").startswith(kernel.process(int(pid)).identity())
            else:
                ended = time.time() - os.stat(name, dir_fd=directory).st_mtime > _MONTH
        except ProcessLookupError:
            ended = True
        except OSError:
            continue
        if ended:
            _unlink(directory, name)


def _unlink(directory: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
