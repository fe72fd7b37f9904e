"""Creating eight Ray actors that bind themselves, against the same eight without.

Seconds from the first `.remote()` until every actor has answered, in turn in one run; each round's actors are killed
and gone before the next begins. Goal: at most 1.15 times. On a machine shared with others the clock is noisy: the
second figure is of the actors' own processor time until they answer, medians of all. Stand-ins take the place of GPUs,
and the strategy is named, so that on a machine with one node the whole bind is done: every thread, the memory policy,
the record for the audit.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    AFFINITY_NODES=",".join(["0"] * 8),
    AFFINITY_STRATEGY="libnuma",
)

import ray

from affinity.integrations.ray import bound

ROUNDS = 7
ACTORS = 8


class Actor:
    def spent(self) -> float:
        return time.process_time()

    def is_bound(self) -> bool:
        return "AFFINITY_BOUND" in os.environ


class BoundActor(Actor):
    pass


Unbound = ray.remote(num_gpus=1, num_cpus=0)(Actor)
Bound = ray.remote(num_gpus=1, num_cpus=0)(bound(BoundActor))


def create(kind: Any) -> tuple[float, list[float]]:
    """Seconds to create them all, and each one's processor time."""
    began = time.perf_counter()
    actors = [kind.remote() for _ in range(ACTORS)]
    spent = ray.get([actor.spent.remote() for actor in actors])
    taken = time.perf_counter() - began
    assert ray.get([actor.is_bound.remote() for actor in actors]) == [kind is Bound] * ACTORS
    for actor in actors:
        ray.kill(actor)
    while ray.available_resources().get("GPU", 0) < ACTORS:
        time.sleep(0.1)
    time.sleep(1)  # their processes end
    return taken, spent


def main() -> None:
    ray.init(num_cpus=1, num_gpus=ACTORS, include_dashboard=False, log_to_driver=False, logging_level="error")
    create(Unbound)
    create(Bound)
    rounds = [(create(Unbound), create(Bound)) for _ in range(ROUNDS)]
    for what, figures in (
        ("seconds to create 8 actors", [(without[0], with_bind[0]) for without, with_bind in rounds]),
        ("processor seconds of an actor", [pair for a, b in rounds for pair in zip(a[1], b[1], strict=True)]),
    ):
        without, with_bind = (statistics.median(times) for times in zip(*figures, strict=True))
        print(f"{what}: bound {with_bind:.2f}, unbound {without:.2f}: {with_bind / without:.2f} times")
    ray.shutdown()


if __name__ == "__main__":
    main()
