"""The errors that this package raises.

    AffinityError
    ├── UsageError        a call or a command line that cannot be understood        (exit status 2)
    │   ├── SettingsError     an AFFINITY_* or SGLANG_* variable that does not parse
    │   ├── ListFormatError   text that is not the kernel's list format (`0-3,8`)
    │   ├── SyntheticError    a one-line machine that does not parse
    │   └── UnknownGpuError   a GPU reference that names no GPU here, or more than one
    ├── SystemFileError   a file of /proc or /sys that cannot be read; an OSError too, with its errno
    │   └── ForeignProcError  /proc is of another PID namespace
    ├── TopologyError     a machine description (sysfs file) that contradicts itself
    ├── ForeignHostError  the topology of another machine where only this one can be bound
    ├── DeviceError       a device provider (NVML, …) that cannot list its GPUs
    ├── PluginError       a named plugin that is missing, broken or claimed twice
    └── BindError         a required binding that cannot be put in force           (exit status 3)
        └── PlacementError    no CPU or node is left for the worker

A message has three parts: what was found, what was expected, and what to do.
"""

from __future__ import annotations

import errno


class AffinityError(Exception):
    """Base of all errors of this package."""


class UsageError(AffinityError, ValueError):
    """A call, or a command line, that cannot be understood."""


class SettingsError(UsageError):
    """An environment variable with a value that does not parse, or, under `required`, an unknown name."""


class ListFormatError(UsageError):
    """Text that is not the kernel's list format (`0-3,8`) or mask format (`ff,00000000`)."""


class SyntheticError(UsageError):
    """A synthetic machine description that does not parse; the message points at the token."""


class UnknownGpuError(UsageError):
    """A GPU reference that names no GPU here, or more than one."""


class SystemFileError(AffinityError, OSError):
    """A file of /proc or /sys that cannot be read, from the OSError of opening it; the message has the remedy."""

    def __str__(self) -> str:
        remedy = _REMEDIES.get(self.errno or 0, "make it readable to this process")
        return f"{self.filename}: {self.strerror}; expected a readable file: {remedy}"


class ForeignProcError(SystemFileError):
    """A /proc of another PID namespace: its numbers are not those of this process's threads."""

    def __str__(self) -> str:
        return f"{self.filename}: of another PID namespace; expected this one's: mount proc (unshare --mount-proc)"


_REMEDIES = {
    errno.ENOENT: "mount proc on /proc and sysfs on /sys",
    errno.EMFILE: "raise the limit on open files (ulimit -n) or close some",
    errno.ENFILE: "raise the system's limit on open files (sysctl fs.file-max)",
}


class TopologyError(AffinityError):
    """A machine description that contradicts itself; the message names the file."""


class ForeignHostError(AffinityError):
    """The topology of another machine, given to a call that binds a process of this one."""


class PluginError(AffinityError):
    """A named plugin that is missing, broken, or claimed by two distributions."""


class BindError(AffinityError):
    """A required binding that cannot be put in force on this machine."""


class PlacementError(BindError):
    """No CPU, or no node, is left for the worker."""


class DeviceError(AffinityError):
    """A device provider that cannot list its GPUs; the message has the driver's error and a remedy."""
