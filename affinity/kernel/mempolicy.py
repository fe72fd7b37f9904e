"""`MemoryPolicy`: where a thread's new pages go. Source: set_mempolicy(2), numa_memory_policy.rst."""

from __future__ import annotations

import enum

import attrs

from affinity.topology.cpuset import NodeSet


class MemoryMode(enum.Enum):
    """Where new pages of a thread go. Source: set_mempolicy(2)."""

    DEFAULT = "default"
    PREFERRED = "preferred"
    BIND = "bind"
    INTERLEAVE = "interleave"
    LOCAL = "local"
    PREFERRED_MANY = "preferred-many"
    WEIGHTED_INTERLEAVE = "weighted-interleave"


@attrs.frozen
class MemoryPolicy:
    """A mode and its nodes (empty for `default` and `local`)."""

    mode: MemoryMode = MemoryMode.DEFAULT
    nodes: NodeSet = NodeSet()

    def __str__(self) -> str:
        return f"{self.mode.value}:{self.nodes}" if self.nodes else self.mode.value
