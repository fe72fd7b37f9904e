"""Cloud machines and virtual machines."""

from __future__ import annotations

import attrs

from affinity.testing.machines.model import GiB, Machine, MachineNode, Smt, even_nodes, gpus_at, levels, nics_at
from affinity.topology.cpuset import CpuSet


def azure_ndv4() -> Machine:
    """Azure ND A100 v4: four nodes of 24 CPUs, GPUs on nodes 1,1,0,0,3,3,2,2. As published by its vendor:
    Azure/azhpc-images, topology/ndv4-topo.xml."""
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


def azure_ndv2() -> Machine:
    """Azure NDv2: two nodes of 20 CPUs, four V100 each. As published by its vendor: Azure/azhpc-images#393."""
    return Machine(
        nodes=even_nodes(2, cores=20, memory=336 * GiB, packages=2),
        distances=levels((0, 1), 10, 21),
        gpus=gpus_at(
            "0001:00:00.0 0002:00:00.0 0003:00:00.0 0004:00:00.0 0005:00:00.0 0006:00:00.0 0007:00:00.0 0008:00:00.0",
            (0, 0, 0, 0, 1, 1, 1, 1),
            device=0x1DB5,
            model="Tesla V100-SXM2-32GB",
        ),
    )


def aws_p4d() -> Machine:
    """AWS p4d.24xlarge: CPUs 0-23,48-71 and 24-47,72-95, two GPUs and an EFA a bus. As published by its vendor:
    aws/aws-ofi-nccl, topology/p4d-24xl-topo.xml."""
    return Machine(
        nodes=even_nodes(2, cores=24, threads=2, memory=576 * GiB, packages=2),
        threads=2,
        distances=levels((0, 1), 10, 21),
        gpus=gpus_at(
            "10:1c.0 10:1d.0 20:1c.0 20:1d.0 90:1c.0 90:1d.0 a0:1c.0 a0:1d.0",
            (0, 0, 0, 0, 1, 1, 1, 1),
            device=0x20B0,
            model="NVIDIA A100-SXM4-40GB",
            bridges=(),
        ),
        nics=nics_at(
            "10:1b.0=rdmap16s27 20:1b.0=rdmap32s27 90:1b.0=rdmap144s27 a0:1b.0=rdmap160s27",
            (0, 0, 1, 1),
            vendor="amazon",
            device=0xEFA1,
            class_code=0x020000,
            bridges=(),
        ),
    )


def aws_p5() -> Machine:
    """AWS p5.48xlarge: two packages of 48 cores, four H100 each. Shape only: its vendor publishes no node of a GPU."""
    return Machine(
        nodes=even_nodes(2, cores=48, threads=2, memory=1024 * GiB, packages=2),
        threads=2,
        l3_cores=8,
        distances=levels((0, 1), 10, 32),
        gpus=gpus_at(
            "53:00.0 64:00.0 75:00.0 86:00.0 97:00.0 a8:00.0 b9:00.0 ca:00.0",
            (0, 0, 0, 0, 1, 1, 1, 1),
            device=0x2330,
            model="NVIDIA H100 80GB HBM3",
        ),
    )


def aws_g4dn_metal() -> Machine:
    """AWS g4dn.metal: eight T4 on CPUs 0-23,48-71 and 24-47,72-95. As published (second node): pytorch/ci-infra#490."""
    return Machine(
        nodes=even_nodes(2, cores=24, threads=2, memory=192 * GiB, packages=2),
        threads=2,
        distances=levels((0, 1), 10, 21),
        gpus=gpus_at(
            "18:00.0 19:00.0 35:00.0 36:00.0 e7:00.0 e8:00.0 f4:00.0 f5:00.0",
            (0, 0, 0, 0, 1, 1, 1, 1),
            device=0x1EB8,
            model="Tesla T4",
        ),
    )


def aws_g5() -> Machine:
    """AWS g5.12xlarge: one node, four A10G on the root bus, all with node -1. As published: aws/aws-ofi-nccl#466."""
    return Machine(
        nodes=even_nodes(1, cores=24, threads=2, memory=192 * GiB),
        threads=2,
        l3_cores=4,
        gpus=gpus_at("00:1b.0 00:1c.0 00:1d.0 00:1e.0", (None,) * 4, device=0x2237, model="NVIDIA A10G"),
    )


def vm_one_gpu() -> Machine:
    """A virtual machine with one node and one GPU on node 0. Shape only."""
    return Machine(
        nodes=even_nodes(1, cores=13, threads=2, memory=225 * GiB),
        threads=2,
        gpus=gpus_at("06:00.0", (0,), device=0x2336, model="NVIDIA H100"),
    )


def vm_one_node() -> Machine:
    """A virtual machine of one node whose two GPUs have node -1: there is only one. Shape only."""
    return Machine(
        nodes=even_nodes(1, cores=8, threads=2, memory=64 * GiB, smt=Smt.ADJACENT),
        threads=2,
        smt=Smt.ADJACENT,
        gpus=gpus_at("00:05.0 00:06.0", (None, None), device=0x20B5, model="NVIDIA A100 80GB PCIe"),
    )


def vm_two_nodes() -> Machine:
    """A virtual machine of two nodes whose four GPUs have node -1: unknown, and never node 0. Shape only."""
    return Machine(
        nodes=even_nodes(2, cores=8, threads=2, memory=64 * GiB, packages=2, smt=Smt.ADJACENT),
        threads=2,
        smt=Smt.ADJACENT,
        gpus=gpus_at("00:05.0 00:06.0 00:07.0 00:08.0", (None,) * 4, device=0x20B5, model="NVIDIA A100 80GB PCIe"),
    )


def vm_known_bridge() -> Machine:
    """Two GPUs with node -1 below root ports of known nodes, 0 and 1. Shape only."""
    first, second = gpus_at("41:00.0 81:00.0", (None, None), device=0x20B5, model="NVIDIA A100 80GB PCIe")
    return Machine(
        nodes=even_nodes(2, cores=8, threads=2, memory=64 * GiB, packages=2),
        threads=2,
        gpus=(attrs.evolve(first, bridge_node=0), attrs.evolve(second, bridge_node=1)),
    )


def numa_fake() -> Machine:
    """A virtual machine of one node that Linux shows as four (`numa=fake=4`): all have the same CPUs, each its own
    memory. Two GPUs have nodes 0 and 2. Shape only."""
    cpus = CpuSet(range(8))
    return Machine(
        nodes=tuple(MachineNode(i, cpus, 16 * GiB) for i in range(4)),
        distances=((10,) * 4,) * 4,
        gpus=gpus_at("00:05.0 00:06.0", (0, 2), device=0x20B5, model="NVIDIA A100 80GB PCIe"),
    )


MACHINES = (
    azure_ndv4,
    azure_ndv2,
    aws_p4d,
    aws_p5,
    aws_g4dn_metal,
    aws_g5,
    vm_one_gpu,
    vm_one_node,
    vm_two_nodes,
    vm_known_bridge,
    numa_fake,
)
