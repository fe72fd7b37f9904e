"""`Placement`: the CPUs and the memory policy of a worker."""

from __future__ import annotations

import attrs

from affinity.kernel.mempolicy import MemoryMode, MemoryPolicy
from affinity.topology.cpuset import CpuSet, NodeSet, cpu_set, node_set


@attrs.frozen
class Placement:
    """The CPUs and the memory policy of a worker.

    cpus: the exact mask, None for unchanged. memory: the policy, None for unchanged. nodes: the nodes that the
    placement is for, used in messages. reason: why, as text. migrate: move pages touched before the bind.
    """

    cpus: CpuSet | None = attrs.field(converter=attrs.converters.optional(cpu_set))
    memory: MemoryPolicy | None
    nodes: NodeSet = attrs.field(default=NodeSet(), converter=node_set)
    reason: str = ""
    migrate: bool = True

    @property
    def summary(self) -> str:
        """Text for messages: `CPUs 0-3 and memory preferred:0`."""
        return f"CPUs {self.cpus or 'unchanged'}" + (f" and memory {self.memory}" if self.memory else "")

    def weaker(self) -> Placement | None:
        """Return the next weaker placement, in the order bind, preferred, CPUs only; None if there is none."""
        match self.memory:
            case MemoryPolicy(MemoryMode.BIND, nodes):
                return attrs.evolve(self, memory=preferred_policy(nodes))
            case MemoryPolicy(MemoryMode.PREFERRED_MANY, nodes):
                return attrs.evolve(self, memory=MemoryPolicy(MemoryMode.PREFERRED, NodeSet([nodes.first()])))
            case MemoryPolicy():
                return attrs.evolve(self, memory=None) if self.cpus is not None else None
            case _:
                return None


def preferred_policy(nodes: NodeSet) -> MemoryPolicy:
    """Return `preferred` for one node, `preferred-many` (Linux 5.15) for several."""
    return MemoryPolicy(MemoryMode.PREFERRED if len(nodes) == 1 else MemoryMode.PREFERRED_MANY, nodes)
