"""What a captured process was allowed to use: from its status file, else from its cpuset's files.

Sources: proc(5), cpuset(7), Documentation/admin-guide/cgroup-v1/cpusets.rst, Documentation/admin-guide/cgroup-v2.rst.
Archives of hwloc-gather-topology(1) hold the cpuset's files and no status file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from affinity.errors import ListFormatError, TopologyError
from affinity.topology.cpuset import CpuSet, NodeSet
from affinity.topology.sysfs import read_list, read_text

#: Where cpuset's files are usually mounted, and how the files for `cpus` and `mems` are named there.
_USUAL_MOUNTS = (
    ("sys/fs/cgroup", "cpuset.{}.effective"),
    ("sys/fs/cgroup/cpuset", "cpuset.{}"),
    ("dev/cpuset", "{}"),
)


class Allowed(NamedTuple):
    """cpus, nodes: None if the capture has no such file. notes: what could not be read."""

    cpus: CpuSet | None
    nodes: NodeSet | None
    notes: tuple[str, ...] = ()


def read_allowed(root: str) -> Allowed:
    """Read what the captured process was allowed to use. Raises TopologyError, naming a malformed file."""
    file = os.path.join(root, "proc/self/status")
    status = {key: value for key, _, value in (line.partition(":") for line in (read_text(file) or "").splitlines())}
    cpus, nodes = status.get("Cpus_allowed_list"), status.get("Mems_allowed_list")
    try:
        found = Allowed(None if cpus is None else CpuSet.parse(cpus), None if nodes is None else NodeSet.parse(nodes))
    except ListFormatError as wrong:
        raise TopologyError(f"{file}: {wrong}") from wrong
    if found.cpus is not None and found.nodes is not None:
        return found
    of_cpuset = _read_cpuset(root)
    return Allowed(
        of_cpuset.cpus if found.cpus is None else found.cpus,
        of_cpuset.nodes if found.nodes is None else found.nodes,
        of_cpuset.notes,
    )


def _read_cpuset(root: str) -> Allowed:
    name = cpuset_name(root)
    for mount, file in (*_USUAL_MOUNTS, *_mounts(root)):
        inner = os.path.join(mount, name.strip("/"))
        if ".." in inner.split("/") or "\0" in inner:
            raise TopologyError(f"{root}: cpuset {inner!r} is outside its hierarchy; expected a path without '..', NUL")
        directory = os.path.join(root, inner)
        cpus = read_list(CpuSet, os.path.join(directory, file.format("cpus")))
        nodes = read_list(NodeSet, os.path.join(directory, file.format("mems")))
        if cpus or nodes:  # an empty file is that of a group without limits of its own
            return Allowed(cpus or None, nodes or None)
    if name in ("", "/"):
        return Allowed(None, None)
    missing = f"the process was in cpuset {name}, whose files are not in the capture"
    return Allowed(None, None, (f"{missing}: all online CPUs count as allowed; correct it with --allowed-cpus",))


def cpuset_name(root: str) -> str:
    """Return the path of the process's cpuset below its mount, "" if the capture does not have it."""
    name = read_text(os.path.join(root, "proc/self/cpuset"))
    if name is not None:
        return name
    for line in (read_text(os.path.join(root, "proc/self/cgroup")) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers or "cpuset" in controllers.split(","):  # version 2, or this controller of version 1
            return path
    return ""


def _mounts(root: str) -> Iterator[tuple[str, str]]:
    """Yield the other mounts that may have cpuset's files, and how the files are named there. Source: proc(5)."""
    for line in (read_text(os.path.join(root, "proc/mounts")) or "").splitlines():
        match line.split()[1:4]:
            case [mount, "cgroup2", _]:
                yield mount.strip("/"), "cpuset.{}.effective"
            case [mount, "cpuset", _]:
                yield mount.strip("/"), "{}"
            case [mount, "cgroup", options] if "cpuset" in options.split(","):
                yield mount.strip("/"), "{}" if "noprefix" in options.split(",") else "cpuset.{}"
