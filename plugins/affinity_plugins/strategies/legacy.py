"""`legacy` (V1): what the first generation did in process: the calling thread, and a preferred node.

Kept faithful: threads that run already and pages touched before stay where they are; that is what `libnuma` mends.
One thing is not kept: V1's numa_run_on_node widened a mask that the operator had narrowed.
"""

from __future__ import annotations

from affinity import BindError
from affinity.kernel import MemoryMode
from affinity.policies import Placement
from affinity.strategies import RUNNING, AffinityStrategy, Observation, Outcome, Support, set_mempolicy_verified


class Legacy(AffinityStrategy):
    """Binds the calling thread alone."""

    launch_modes = RUNNING

    def supports(self, observation: Observation) -> Support:
        return Support.yes("the calling thread and a preferred node")

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        kernel = observation.host.kernel
        if placement.memory is not None and placement.memory.mode is MemoryMode.PREFERRED_MANY:
            raise BindError("the first generation prefers one node only")
        if placement.cpus is not None:
            kernel.set_affinity(kernel.thread_id(), placement.cpus)
        if placement.memory is not None:
            set_mempolicy_verified(placement.memory, kernel, kernel.set_mempolicy)
        return Outcome(bound=1)
