"""Prints the second table of docs/explanation/figures.md: the same of Ray actors, whose threads are Ray's own.

Run it in the emulated machine: `python tests/vm large -- python tests/vm/guest/ray_figures.py`.
"""

from __future__ import annotations

import actors
import ray
import ray_head
from figures import MIB, head, row


def main() -> None:
    with ray_head.running(3):
        kind = ray.remote(num_gpus=1, num_cpus=0)(actors.Sync)
        made = {strategy: kind.remote(strategy, MIB) for strategy in ("nothing", "legacy", "libnuma")}
        head()
        for strategy, actor in made.items():
            found = ray.get(actor.lived.remote())
            name = strategy if strategy == "nothing" else f"`{strategy}`"
            row(f"{name}, {found['threads']} threads", found, int(found["gpus"][0]))


if __name__ == "__main__":
    main()
