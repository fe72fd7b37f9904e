"""`Placement`: where a worker goes."""

from __future__ import annotations

import attrs

from affinity.kernel.mempolicy import MemoryMode, MemoryPolicy
from affinity.topology.cpuset import CpuSet, NodeSet


@attrs.frozen
class Placement:
    """Where a worker goes.

    cpus: the exact mask, None to leave CPUs alone. memory: the policy, None to leave memory alone.
    nodes: the nodes this is about, for people. reason: in words. migrate: move pages touched before the bind.
    """

    cpus: CpuSet | None
    memory: MemoryPolicy | None
    nodes: NodeSet = NodeSet()
    reason: str = ""
    migrate: bool = True

    @property
    def summary(self) -> str:
        """For messages: `CPUs 0-3 and memory preferred:0`."""
        return f"CPUs {self.cpus or 'as they are'}" + (f" and memory {self.memory}" if self.memory else "")

    def weaker(self) -> Placement | None:
        """The next step down: bind, preferred, CPUs only, nothing (None)."""
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
    """`preferred` for one node, `preferred-many` (Linux 5.15) for several."""
    return MemoryPolicy(MemoryMode.PREFERRED if len(nodes) == 1 else MemoryMode.PREFERRED_MANY, nodes)
