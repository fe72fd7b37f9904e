"""Machines with AMD or Intel GPUs, or with no GPU for computing at all; bare metal."""

from __future__ import annotations

from affinity.testing.machines.model import GiB, Machine, MachineNode, even_nodes, gpus_at, levels
from affinity.topology.cpuset import CpuSet


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


def mi300x() -> Machine:
    """Eight MI300X, GPUs 0-3 on node 0 and 4-7 on node 1. As published: ROCm/legacy-rocm-build#4740; CPUs made up."""
    return Machine(
        nodes=even_nodes(2, cores=96, threads=2, memory=1152 * GiB, packages=2),
        threads=2,
        l3_cores=8,
        distances=levels((0, 1), 12, 32),
        gpus=gpus_at(
            "05:00.0 26:00.0 46:00.0 65:00.0 85:00.0 a6:00.0 c6:00.0 e5:00.0",
            (0, 0, 0, 0, 1, 1, 1, 1),
            vendor="amd",
            device=0x74A1,
            class_code=0x120000,
            model="AMD Instinct MI300X",
        ),
    )


def mi300a() -> Machine:
    """Four MI300A, each processor and GPU in one: node 0 has CPUs 0-23,96-119. As published:
    ROCm/llvm-project#823; addresses made up."""
    return Machine(
        nodes=even_nodes(4, cores=24, threads=2, memory=128 * GiB, packages=4),
        threads=2,
        l3_cores=8,
        distances=levels((0, 1, 2, 3), 10, 32),
        gpus=gpus_at(
            "0000:01:00.0 0001:01:00.0 0002:01:00.0 0003:01:00.0",
            (0, 1, 2, 3),
            vendor="amd",
            device=0x74A0,
            class_code=0x120000,
            model="AMD Instinct MI300A",
        ),
    )


def knl_snc4_flat() -> Machine:
    """Xeon Phi 7250 with flat memory: nodes 0-3 with CPUs of unequal number, 4-7 with fast memory and no CPUs, no GPU
    and no L3. Shape only, after NERSC's "KNL Processor Modes" (68 cores do not divide by four)."""
    cores = (range(18), range(18, 36), range(36, 52), range(52, 68))
    nodes = [MachineNode(i, CpuSet(68 * t + c for t in range(4) for c in cores[i]), 24 * GiB) for i in range(4)]
    nodes += [MachineNode(i, CpuSet(), 4 * GiB) for i in range(4, 8)]

    def distance(a: int, b: int) -> int:
        if a == b:
            return 10
        if a < 4 and b < 4:
            return 21
        return 31 if abs(a - b) == 4 else 41

    rows = tuple(tuple(distance(a, b) for b in range(8)) for a in range(8))
    return Machine(nodes=tuple(nodes), threads=4, l3_cores=0, distances=rows)


MACHINES = (mi250x, mi300x, mi300a, knl_snc4_flat)
