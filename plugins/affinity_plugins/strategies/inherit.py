"""`inherit`: a child inherits the CPU mask and the memory policy of the thread that starts it.

The starting thread takes the placement for the one system call that starts the worker, and then restores its own state.
So the worker is bound from its first instruction, without a helper program. Masks and policies belong to threads, so
parallel starts do not affect each other.
Sources: sched_setaffinity(2), "inherited by a child"; set_mempolicy(2), NOTES.
"""

from __future__ import annotations

from functools import partial

from affinity import LaunchMode
from affinity.policies import Placement
from affinity.strategies import (
    RUNNING,
    AffinityStrategy,
    Observation,
    Outcome,
    Support,
    WorkerStart,
    bind_process,
    thread_placed,
)

#: Start methods whose worker is a child of the starting thread; a fork server's and loky's are started by others.
_STARTED_HERE = ("", "spawn", "fork", "exec")


class Inherit(AffinityStrategy):
    """Strategy for each start and each running process that binds itself: inherits the placement, or sets it."""

    launch_modes = RUNNING | {LaunchMode.COMMAND}

    def supports(self, observation: Observation) -> Support:
        method = observation.launch.start_method
        if method not in _STARTED_HERE:
            return Support.yes(f"start method {method}: the worker binds itself before its target runs")
        return Support.yes("a child inherits the starting thread's mask and policy")

    def start(self, placement: Placement, observation: Observation) -> WorkerStart:
        around = partial(thread_placed, placement, observation.host.kernel)
        with around():  # a refusal is raised before anything is started
            if observation.launch.start_method in _STARTED_HERE:
                return WorkerStart(around=around)
        return WorkerStart(binds_itself=True)

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        return bind_process(placement, observation.host)
