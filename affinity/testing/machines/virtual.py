"""Cloud machines and virtual machines."""

from __future__ import annotations

import attrs

from affinity.testing.machines.model import GiB, Machine, Smt, even_nodes, gpus_at, levels


def azure_ndv4() -> Machine:
    """Azure ND A100 v4: four nodes of 24 cores, GPUs on nodes 1,1,0,0,3,3,2,2. Shape only."""
    return Machine(
        nodes=even_nodes(4, cores=24, memory=225 * GiB, packages=2),
        l3_cores=4,
        distances=levels((0, 0, 1, 1), 12, 21),
        gpus=gpus_at(
            "0001:00:00.0 0002:00:00.0 0003:00:00.0 0004:00:00.0 000b:00:00.0 000c:00:00.0 000d:00:00.0 000e:00:00.0",
            (1, 1, 0, 0, 3, 3, 2, 2),
            device=0x20B0,
            model="NVIDIA A100-SXM4-40GB",
        ),
    )


def vm_one_node() -> Machine:
    """A virtual machine of one node whose two GPUs say -1: there is nothing to know. Shape only."""
    return Machine(
        nodes=even_nodes(1, cores=8, threads=2, memory=64 * GiB, smt=Smt.ADJACENT),
        threads=2,
        smt=Smt.ADJACENT,
        gpus=gpus_at("00:05.0 00:06.0", (None, None), device=0x20B5, model="NVIDIA A100 80GB PCIe"),
    )


def vm_two_nodes() -> Machine:
    """A virtual machine of two nodes whose four GPUs say -1: unknown, and never node 0. Shape only."""
    return Machine(
        nodes=even_nodes(2, cores=8, threads=2, memory=64 * GiB, packages=2, smt=Smt.ADJACENT),
        threads=2,
        smt=Smt.ADJACENT,
        gpus=gpus_at("00:05.0 00:06.0 00:07.0 00:08.0", (None,) * 4, device=0x20B5, model="NVIDIA A100 80GB PCIe"),
    )


def vm_bridge_knows() -> Machine:
    """Two GPUs that say -1 below root ports that know their nodes, 0 and 1. Shape only."""
    first, second = gpus_at("41:00.0 81:00.0", (None, None), device=0x20B5, model="NVIDIA A100 80GB PCIe")
    return Machine(
        nodes=even_nodes(2, cores=8, threads=2, memory=64 * GiB, packages=2),
        threads=2,
        gpus=(attrs.evolve(first, bridge_node=0), attrs.evolve(second, bridge_node=1)),
    )


MACHINES = (azure_ndv4, vm_one_node, vm_two_nodes, vm_bridge_knows)
