"""A scheduler actor for Ray, in the shape of SGLang's: configure the process, bind it, then build the scheduler.

python scheduler_actor.py
"""

from __future__ import annotations

import faulthandler
import threading
from typing import Any

import ray

import affinity


class Scheduler:
    """In place of an engine's. What it allocates and starts lies where the process is bound at this moment."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.host_buffer = bytearray(16 << 20)
        self.stopped = threading.Event()
        self.loader = threading.Thread(target=self.stopped.wait, daemon=True)
        self.loader.start()

    def run_event_loop(self) -> None:
        self.stopped.wait()


@ray.remote(num_gpus=1, max_concurrency=2)  # the second thread answers while the event loop runs
class SchedulerActor:
    """One GPU, one scheduler. Ray starts the process and gives it the GPU; everything else is the engine's own."""

    def __init__(self, rank: int) -> None:
        configure_process()
        self.binding = affinity.bind()  # before anything is allocated for the GPU
        self.scheduler = Scheduler(rank)

    def get_info(self) -> dict[str, Any]:
        """What an operator wants to see of it: where it is, how it got there, and what could not be had."""
        binding = self.binding
        return {
            "rank": self.scheduler.rank,
            "gpu": ", ".join(map(str, binding.launch.gpus)),
            "strategy": binding.strategy,
            "cpus": str(binding.observed.threads[binding.observed.caller]),
            "memory": str(binding.observed.policy),
            "threads left behind": binding.unbound_threads,
            "degraded": [str(what) for what in binding.degradations],
        }

    def run_event_loop(self) -> None:
        self.scheduler.run_event_loop()

    def stop(self) -> None:
        self.scheduler.stopped.set()


def configure_process() -> None:
    """Process title, logging, fault handler: what needs no memory to speak of and starts no threads."""
    faulthandler.enable()


def main(ranks: int = 2) -> None:
    ray.init(num_gpus=ranks, include_dashboard=False, log_to_driver=False)
    actors = [SchedulerActor.remote(rank) for rank in range(ranks)]
    for info in ray.get([actor.get_info.remote() for actor in actors]):
        print(info)
    loops = [actor.run_event_loop.remote() for actor in actors]
    ray.get([actor.stop.remote() for actor in actors])
    ray.get(loops)
    ray.shutdown()


if __name__ == "__main__":
    main()
