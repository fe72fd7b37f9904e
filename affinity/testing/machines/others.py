"""Machines with AMD or Intel GPUs, or with no GPU for computing at all; bare metal."""

from __future__ import annotations

from affinity.testing.machines.model import GiB, Machine, even_nodes, gpus_at, levels


def mi250x() -> Machine:
    """A Frontier node: one EPYC in four nodes, eight MI250X dies on nodes 3,3,1,1,0,0,2,2. Shape only."""
    return Machine(
        nodes=even_nodes(4, cores=16, threads=2, memory=128 * GiB),
        threads=2,
        l3_cores=8,
        distances=levels((0, 0, 0, 0), 12, 32),
        gpus=gpus_at(
            "c1:00.0 c6:00.0 c9:00.0 ce:00.0 d1:00.0 d6:00.0 d9:00.0 de:00.0",
            (3, 3, 1, 1, 0, 0, 2, 2),
            vendor="amd",
            device=0x7408,
            class_code=0x038000,
            model="AMD Instinct MI250X",
        ),
    )


MACHINES = (mi250x,)
