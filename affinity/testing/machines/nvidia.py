"""Machines with NVIDIA GPUs, bare metal."""

from __future__ import annotations

import attrs

from affinity.testing.machines.model import (
    CacheSizes,
    GiB,
    Machine,
    MachineGpu,
    MachineNode,
    Smt,
    below,
    even_nodes,
    gpus_at,
    levels,
    nics_at,
)
from affinity.topology.cpuset import CpuSet, NodeSet
from affinity.topology.model import PciAddress

_HALVES = (0, 0, 0, 0, 1, 1, 1, 1)

#: Arm Neoverse V2 as built into Grace. Source: NVIDIA Grace CPU datasheet (L3: 114 MB).
_GRACE_CACHES = CacheSizes(data=64 << 10, instruction=64 << 10, l2=1 << 20, l3=114 << 20)


def dgx_h100() -> Machine:
    """DGX H100: CPUs 0-55,112-167 and 56-111,168-223, GPUs 0-3 on node 0. As published: vllm-project/vllm#13855; RDMA
    devices as in NVIDIA's DGX H100 user guide, each beside a GPU; bridges made up."""
    rails = ("18", "40", "4f", "5e", "9a", "c0", "ce", "dc")  # buses of the adapters, one for each GPU
    return Machine(
        nodes=even_nodes(2, cores=56, threads=2, memory=1008 * GiB, packages=2),
        threads=2,
        cache_sizes=CacheSizes(data=48 << 10, instruction=32 << 10, l2=2 << 20, l3=105 << 20),
        distances=levels((0, 1), 10, 21),
        gpus=below(
            " ".join(_switch_port(bus, 4) for bus in rails),
            gpus_at(
                "1b:00.0 43:00.0 52:00.0 61:00.0 9d:00.0 c3:00.0 d1:00.0 df:00.0",
                _HALVES,
                device=0x2330,
                model="NVIDIA H100 80GB HBM3",
            ),
        ),
        nics=(
            *below(
                " ".join(_switch_port(bus, 0) for bus in rails),
                nics_at(
                    "18:00.0=mlx5_0 40:00.0=mlx5_3 4f:00.0=mlx5_4 5e:00.0=mlx5_5 "
                    "9a:00.0=mlx5_6 c0:00.0=mlx5_9 ce:00.0=mlx5_10 dc:00.0=mlx5_11",
                    _HALVES,
                    device=0x1021,
                ),
            ),
            *nics_at(
                "29:00.0=mlx5_1 29:00.1=mlx5_2 aa:00.0=mlx5_7 aa:00.1=mlx5_8",
                (0, 0, 1, 1),
                device=0x1021,
                class_code=0x020000,
            ),
        ),
        others=(MachineGpu(PciAddress.parse("03:00.0"), 0, "aspeed", 0x2000, 0x030000, boot_vga=True),),
    )


def dgx_a100() -> Machine:
    """DGX A100: 8 nodes of 16 cores, GPUs on nodes 3,3,1,1,7,7,5,5. As published: NVIDIA/nccl#1505."""
    packages = (0, 0, 0, 0, 1, 1, 1, 1)
    return Machine(
        nodes=even_nodes(8, cores=16, threads=2, memory=128 * GiB, packages=2),
        threads=2,
        l3_cores=4,
        distances=levels(packages, 12, 32),
        gpus=gpus_at(
            "07:00.0 0f:00.0 47:00.0 4e:00.0 87:00.0 90:00.0 b7:00.0 bd:00.0",
            (3, 3, 1, 1, 7, 7, 5, 5),
            device=0x20B0,
            model="NVIDIA A100-SXM4-40GB",
        ),
        others=(MachineGpu(PciAddress.parse("c4:00.0"), 5, "aspeed", 0x2000, 0x030000, boot_vga=True),),
    )


def gb200() -> Machine:
    """A GB200 tray: two Grace CPUs, four GPUs, each with eight memory nodes (one in use). Shape only; RDMA devices as
    in NVIDIA's DGX GB200 deployment guide."""
    nodes = [MachineNode(i, CpuSet(range(72 * i, 72 * i + 72)), 480 * GiB, i) for i in range(2)]
    nodes += [MachineNode(i, CpuSet(), 186 * GiB if i % 8 == 2 else 0, (i - 2) // 16) for i in range(2, 34)]
    addresses = ("0008:01:00.0", "0009:01:00.0", "0018:01:00.0", "0019:01:00.0")
    return Machine(
        nodes=tuple(nodes),
        cache_sizes=_GRACE_CACHES,
        distances=_grace_distances(tuple(n.package for n in nodes)),
        nics=nics_at(
            "0000:03:00.0=mlx5_0 0002:03:00.0=mlx5_1 0006:03:00.0=mlx5_2 0006:03:00.1=mlx5_3 "
            "0010:03:00.0=mlx5_4 0012:03:00.0=mlx5_5 0016:03:00.0=mlx5_6 0016:03:00.1=mlx5_7",
            _HALVES,
        ),
        gpus=tuple(
            MachineGpu(
                PciAddress.parse(address),
                i // 2,
                device=0x2941,
                model="NVIDIA GB200",
                memory_affinity=NodeSet([i // 2, *range(8 * i + 2, 8 * i + 10)]),
                cpu_affinity=CpuSet(range(72 * (i // 2), 72 * (i // 2) + 72)),
            )
            for i, address in enumerate(addresses)
        ),
    )


def gh200() -> Machine:
    """A GH200: node 0 with CPUs 0-71, nodes 1-8 for GPU memory. As published: bytedance/xpu-perf#129."""
    nodes = [MachineNode(0, CpuSet(range(72)), 480 * GiB)]
    nodes += [MachineNode(i, CpuSet(), 96 * GiB if i == 1 else 0) for i in range(1, 9)]
    return Machine(
        nodes=tuple(nodes),
        cache_sizes=_GRACE_CACHES,
        distances=_grace_distances((0,) * 9),
        gpus=gpus_at(
            "0009:01:00.0",
            (0,),
            device=0x2342,
            model="NVIDIA GH200 480GB",
            memory_affinity=NodeSet(range(9)),
            cpu_affinity=CpuSet(range(72)),
        ),
    )


def power9_ac922() -> Machine:
    """IBM AC922: CPU nodes 0 and 8, GPU memory nodes 250-255, GPUs on 0,0,0,8,8,8. Shape only."""
    nodes = (
        MachineNode(0, CpuSet(range(88)), 256 * GiB, 0),
        MachineNode(8, CpuSet(range(88, 176)), 256 * GiB, 8),
        *(MachineNode(i, CpuSet(), 16 * GiB, 8 if i < 253 else 0) for i in range(250, 256)),
    )
    packages = tuple(n.package for n in nodes)
    cpu_nodes = levels(packages, 80, 80)
    return Machine(
        nodes=nodes,
        threads=4,
        smt=Smt.ADJACENT,
        l3_cores=2,
        distances=tuple(
            tuple(40 if {a, b} == {0, 1} else d for b, d in enumerate(row)) for a, row in enumerate(cpu_nodes)
        ),
        gpus=gpus_at(
            "0004:04:00.0 0004:05:00.0 0004:06:00.0 0035:03:00.0 0035:04:00.0 0035:05:00.0",
            (0, 0, 0, 8, 8, 8),
            device=0x1DB1,
            model="Tesla V100-SXM2-16GB",
        ),
    )


def dgx_2() -> Machine:
    """DGX-2: 16 GPUs, eight on each of two packages of 24 cores. Shape only."""
    return Machine(
        nodes=even_nodes(2, cores=24, threads=2, memory=768 * GiB, packages=2),
        threads=2,
        distances=levels((0, 1), 10, 21),
        gpus=gpus_at(
            "34:00.0 36:00.0 39:00.0 3b:00.0 57:00.0 59:00.0 5c:00.0 5e:00.0 "
            "b7:00.0 b9:00.0 bc:00.0 be:00.0 e0:00.0 e2:00.0 e5:00.0 e7:00.0",
            (0,) * 8 + (1,) * 8,
            device=0x1DB8,
            model="Tesla V100-SXM3-32GB",
        ),
    )


def dgx_1() -> Machine:
    """DGX-1V: CPUs 0-19,40-59 beside four V100, 20-39,60-79 beside the others. As published: NVIDIA/nccl#671."""
    return Machine(
        nodes=even_nodes(2, cores=20, threads=2, memory=256 * GiB, packages=2),
        threads=2,
        distances=levels((0, 1), 10, 21),
        gpus=gpus_at(
            "06:00.0 07:00.0 0a:00.0 0b:00.0 85:00.0 86:00.0 89:00.0 8a:00.0",
            _HALVES,
            device=0x1DB5,
            model="Tesla V100-SXM2-32GB",
        ),
    )


def hgx_b200() -> Machine:
    """HGX B200, CPUs 0-55,112-167 and 56-111,168-223. As published: sgl-project/sglang#9064; addresses made up."""
    return attrs.evolve(
        dgx_h100(),
        gpus=gpus_at(
            "1a:00.0 3c:00.0 4d:00.0 5e:00.0 9c:00.0 bc:00.0 cc:00.0 dd:00.0",
            _HALVES,
            device=0x2901,
            model="NVIDIA B200",
        ),
        nics=(),
        cache_sizes=CacheSizes(),
    )


def hgx_b200_snc3() -> Machine:
    """HGX B200 with each package cut in three: GPUs on nodes 0,0,2,2,3,3,5,5 of six. As published:
    sgl-project/sglang#40055; CPU numbers and addresses made up."""
    return attrs.evolve(
        hgx_b200(),
        nodes=even_nodes(6, cores=20, threads=2, memory=340 * GiB, packages=2),
        distances=levels((0, 0, 0, 1, 1, 1), 12, 21),
        gpus=tuple(
            attrs.evolve(gpu, node=node) for gpu, node in zip(hgx_b200().gpus, (0, 0, 2, 2, 3, 3, 5, 5), strict=True)
        ),
        others=(),
    )


def pcie_server_4090() -> Machine:
    """Eight RTX 4090 in a two-package server, display devices all. As published: NVIDIA/go-gpuallocator#17."""
    return attrs.evolve(
        dgx_h100(),
        gpus=gpus_at(
            "17:00.0 26:00.0 37:00.0 49:00.0 97:00.0 a7:00.0 b7:00.0 c8:00.0",
            _HALVES,
            device=0x2684,
            class_code=0x030000,
            model="NVIDIA GeForce RTX 4090",
        ),
        nics=(),
        cache_sizes=CacheSizes(),
    )


def epyc_nps4_descending() -> Machine:
    """Eight nodes of 16 CPUs, GPUs on nodes 3,2,1,0,7,6,5,4. As published: novitalabs/pegaflow#72."""
    return Machine(
        nodes=even_nodes(8, cores=16, memory=128 * GiB, packages=2),
        l3_cores=8,
        distances=levels(_HALVES, 12, 32),
        gpus=gpus_at(
            "01:00.0 21:00.0 41:00.0 61:00.0 81:00.0 a1:00.0 c1:00.0 e1:00.0",
            (3, 2, 1, 0, 7, 6, 5, 4),
            device=0x2684,
            class_code=0x030000,
            model="NVIDIA GeForce RTX 4090",
        ),
    )


def workstation() -> Machine:
    """Two packages of eight cores; the first of five GPUs is on node 1, the others on node 0. As published:
    noonghunna/club-3090#46."""
    return Machine(
        nodes=even_nodes(2, cores=8, threads=2, memory=128 * GiB, packages=2),
        threads=2,
        distances=levels((0, 1), 10, 21),
        gpus=gpus_at(
            "04:00.0 82:00.0 83:00.0 84:00.0 85:00.0",
            (1, 0, 0, 0, 0),
            device=0x2684,
            class_code=0x030000,
            model="NVIDIA GeForce RTX 4090",
        ),
    )


def laptop() -> Machine:
    """One node, a GPU for graphics in the processor and another beside it; both have node -1. Shape only."""
    return Machine(
        nodes=even_nodes(1, cores=8, threads=2, memory=32 * GiB, smt=Smt.ADJACENT),
        threads=2,
        smt=Smt.ADJACENT,
        gpus=gpus_at(
            "01:00.0", (None,), device=0x28E0, class_code=0x030000, model="NVIDIA GeForce RTX 4060 Laptop GPU"
        ),
        others=(MachineGpu(PciAddress.parse("00:02.0"), None, "intel", 0xA7A0, 0x030000, boot_vga=True),),
    )


def snc_16_nodes() -> Machine:
    """Four packages, each cut in four nodes of 15 cores; two GPUs a package, on its first and last node. Shape only."""
    return Machine(
        nodes=even_nodes(16, cores=15, threads=2, memory=64 * GiB, packages=4),
        threads=2,
        distances=levels(tuple(i // 4 for i in range(16)), 12, 21),
        gpus=gpus_at(
            "17:00.0 2a:00.0 3d:00.0 5e:00.0 97:00.0 aa:00.0 bd:00.0 de:00.0",
            (0, 3, 4, 7, 8, 11, 12, 15),
            device=0x2330,
            model="NVIDIA H100 PCIe",
        ),
    )


def container_without_gpu_node() -> Machine:
    """A container on a DGX H100 whose cpuset leaves only CPUs and memory of node 0: GPUs 4-7 have none. Shape only."""
    return attrs.evolve(dgx_h100(), allowed_cpus=CpuSet.parse("0-15,112-127"), allowed_nodes=NodeSet([0]))


def _switch_port(bus: str, port: int) -> str:
    """Return the bridges to a port of the PCI switch that has an adapter on this bus: root port, up, down."""
    first = int(bus, 16) - 3
    return f"{first:02x}:01.0,{first + 1:02x}:00.0,{first + 2:02x}:{port:02x}.0"


def _grace_distances(packages: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Between Graces 40; Grace to a GPU memory node of its own 80, of the other 120; between those 160."""
    graces = len(set(packages))

    def distance(a: int, b: int) -> int:
        if a == b:
            return 10
        if a < graces and b < graces:
            return 40
        if a >= graces and b >= graces:
            return 160
        return 80 if packages[a] == packages[b] else 120

    ids = range(len(packages))
    return tuple(tuple(distance(a, b) for b in ids) for a in ids)


MACHINES = (
    dgx_h100,
    dgx_a100,
    gb200,
    gh200,
    power9_ac922,
    dgx_1,
    dgx_2,
    hgx_b200,
    hgx_b200_snc3,
    pcie_server_4090,
    epyc_nps4_descending,
    workstation,
    laptop,
    snc_16_nodes,
    container_without_gpu_node,
)
