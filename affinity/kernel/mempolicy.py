"""`MemoryPolicy`: where a thread's new pages go. Source: set_mempolicy(2), numa_memory_policy.rst."""

from __future__ import annotations

import enum

import attrs

from affinity.topology.cpuset import NodeSet, node_set


class MemoryMode(enum.Enum):
    """Where new pages of a thread go. Source: set_mempolicy(2)."""

    DEFAULT = "default"
    PREFERRED = "preferred"
    BIND = "bind"
    INTERLEAVE = "interleave"
    LOCAL = "local"
    PREFERRED_MANY = "preferred-many"
    WEIGHTED_INTERLEAVE = "weighted-interleave"


class MemoryFlag(enum.Enum):
    """How a policy's nodes follow a changed cpuset, and whether pages are balanced. Source: set_mempolicy(2)."""

    STATIC_NODES = "static"
    RELATIVE_NODES = "relative"
    NUMA_BALANCING = "balancing"


@attrs.frozen
class MemoryPolicy:
    """A mode, its nodes (empty for `default` and `local`) and its mode flags. As text: `bind=static:0-1`."""

    mode: MemoryMode = MemoryMode.DEFAULT
    nodes: NodeSet = attrs.field(default=NodeSet(), converter=node_set)
    flags: frozenset[MemoryFlag] = frozenset()

    def __str__(self) -> str:
        flags = "|".join(flag.value for flag in MemoryFlag if flag in self.flags)
        return self.mode.value + (f"={flags}" if flags else "") + (f":{self.nodes}" if self.nodes else "")
