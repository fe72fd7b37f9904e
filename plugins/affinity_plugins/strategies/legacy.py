"""`legacy` (V1): SGLang's first binding, which sets the mask and a preferred node of the calling thread only.

As in V1, other threads and pages touched before stay where they are; strategy `libnuma` binds and moves them.
Unlike V1, whose numa_run_on_node widened a mask that the operator had narrowed, it sets the exact CPUs.
"""

from __future__ import annotations

from affinity import BindError
from affinity.kernel import MemoryMode
from affinity.policies import Placement
from affinity.strategies import RUNNING, AffinityStrategy, Observation, Outcome, Support, set_mempolicy_verified


class Legacy(AffinityStrategy):
    """Strategy that binds only the calling thread."""

    launch_modes = RUNNING

    def supports(self, observation: Observation) -> Support:
        return Support.yes("the calling thread and a preferred node")

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        kernel = observation.host.kernel
        if placement.memory is not None and placement.memory.mode is MemoryMode.PREFERRED_MANY:
            raise BindError("strategy legacy sets one preferred node, not several: use strategy libnuma or inherit")
        if placement.cpus is not None:
            kernel.set_affinity(kernel.thread_id(), placement.cpus)
        if placement.memory is not None:
            set_mempolicy_verified(placement.memory, kernel, kernel.set_mempolicy)
        return Outcome(bound=1)
