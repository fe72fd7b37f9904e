"""`inherit`: a child inherits the CPU mask and the memory policy of the thread that starts it.

So the calling thread takes the placement, starts the worker, and takes its own state back: bound from the first
instruction, without a helper program, and per thread, therefore safe for parallel starts. Sources:
sched_setaffinity(2), "inherited by a child"; set_mempolicy(2), NOTES.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from affinity import Host, LaunchMode
from affinity.policies import Placement
from affinity.strategies import AffinityStrategy, Observation, Outcome, Support


class Inherit(AffinityStrategy):
    """Serves every launch mode: around a start by inheritance, in a running process directly."""

    launch_modes = frozenset(LaunchMode)

    def supports(self, observation: Observation) -> Support:
        return Support.yes("a child inherits the starting thread's mask and policy")

    def spawning(self, placement: Placement, host: Host) -> AbstractContextManager[None]:
        return self._spawning(placement, host)

    @contextmanager
    def _spawning(self, placement: Placement, host: Host) -> Iterator[None]:
        kernel = host.kernel
        if not host.is_foreign:
            from multiprocessing import resource_tracker

            # Started by the first worker's start otherwise, and then bound with it for the parent's lifetime.
            resource_tracker.ensure_running()
        from affinity.strategies import starting

        mask = kernel.get_affinity()
        policy = kernel.get_mempolicy() if placement.memory is not None else None
        try:
            self._take(placement, host)
            with starting(
                methods=frozenset({"spawn", "fork"}),
                why="strategy inherit cannot reach it: it inherits from the fork server, not from this thread",
            ):
                yield
        finally:  # only what has changed: a call that was refused above is refused here too
            try:
                if policy is not None and kernel.get_mempolicy() != policy:
                    kernel.set_mempolicy(policy)
            finally:
                if kernel.get_affinity() != mask:
                    kernel.set_affinity(kernel.thread_id(), mask)

    def command(self, argv: Sequence[str], placement: Placement, host: Host) -> Sequence[str]:
        self._take(placement, host)
        return argv

    def bind(self, placement: Placement, observation: Observation) -> Outcome:
        from affinity.strategies import bind_process

        return bind_process(placement, observation.host)

    @staticmethod
    def _take(placement: Placement, host: Host) -> None:
        kernel = host.kernel
        if placement.cpus is not None and kernel.get_affinity() != placement.cpus:
            kernel.set_affinity(kernel.thread_id(), placement.cpus)
        if placement.memory is not None:
            from affinity.strategies import set_mempolicy_verified

            set_mempolicy_verified(placement.memory, kernel, kernel.set_mempolicy)
