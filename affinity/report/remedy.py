"""What helps where a process cannot be changed from outside: a restart, or its container manager's command."""

from __future__ import annotations

import re

from affinity.topology.cpuset import NodeSet

#: A part of a control group's path, and the command that changes that group's cpuset. 12 digits of an id are enough.
#: Sources: docker-update(1), podman-update(1), systemd.resource-control(5) (AllowedMemoryNodes: systemd 244).
_MANAGERS = (
    (r"kubepods", "in Kubernetes, the static CPU manager and the Static memory manager of the kubelet place it"),
    (r"docker[-/]([0-9a-f]{12})[0-9a-f]{52}", "docker update --cpuset-mems {nodes} {name}"),
    (r"libpod-([0-9a-f]{12})[0-9a-f]{52}", "podman update --cpuset-mems {nodes} {name}"),
    (r".*/([^/]+\.(?:service|scope))", "systemctl set-property --runtime {name} AllowedMemoryNodes={nodes}"),
)


def cpuset_command(cgroup: str, nodes: NodeSet) -> str:
    """Return how its manager gives a control group the memory of these nodes, "" if the path shows no manager."""
    for pattern, command in _MANAGERS:
        found = re.search(pattern, cgroup)
        if found:
            return command.format(nodes=nodes, name=found[1] if found.groups() else "")
    return ""


def allow_memory(cgroup: str, nodes: NodeSet) -> str:
    """Return the remedy for a control group that may not take memory of these nodes."""
    return cpuset_command(cgroup, nodes) or "widen cpuset.mems of its control group"


def restart_or_cpuset(cgroup: str, nodes: NodeSet) -> str:
    """Return the remedies for memory that cannot be moved to these nodes from outside."""
    command = cpuset_command(cgroup, nodes)
    return "restart it through `affinity run`" + (f", or move its whole control group: {command}" if command else "")
