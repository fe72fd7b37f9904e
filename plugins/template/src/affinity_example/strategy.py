"""HOW a placement is put in force: in the running worker, with thread pools sized to match."""

from __future__ import annotations

from affinity.policies import Placement, physical_cores
from affinity.strategies import RUNNING, AffinityStrategy, Observation, Outcome, Support, bind_process

POOL = "OMP_NUM_THREADS"


class AffinityExampleStrategy(AffinityStrategy):
    """Strategy that binds all threads of the process, and sets the number of OpenMP threads.

    Without that number, libgomp starts a thread for each CPU of the mask, hardware threads included, and two threads
    compete for one core. A number that the operator has set stays.
    """

    interface_version = 1
    launch_modes = RUNNING

    def supports(self, observation: Observation) -> Support:
        return Support.yes("system calls only: it needs no program and no library")

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        host = observation.host
        outcome = bind_process(placement, host)  # raises if the kernel refuses; then the pools are not sized
        if placement.cpus is not None:
            host.kernel.environ.setdefault(POOL, str(len(physical_cores(placement.cpus, host))))
        return outcome
