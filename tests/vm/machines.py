"""The machines the tests boot, each declared as its guest should see it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

#: Distance of a node to itself, and the default one between two nodes.
LOCAL, REMOTE = 10, 20


@dataclass(frozen=True)
class Node:
    """A NUMA node: its number, its processor slots and its memory in MiB.

    An absent node is known to the firmware (its slots are empty) but never
    comes online, which leaves a gap in the guest's list of nodes.
    """

    number: int
    slots: tuple[int, ...] = ()
    memory: int = 0
    absent: bool = False


@dataclass(frozen=True)
class Gpu:
    """A GPU as the guest sees it: its PCI address and its node, if any."""

    address: str
    node: int | None


@dataclass(frozen=True)
class Machine:
    """A machine: processor topology, nodes, distances and GPUs.

    ``gpus`` holds the node of each GPU, or None for a GPU without one.
    ``distances`` has a row a node, in the order of ``nodes``; when empty, nodes
    are LOCAL to themselves and REMOTE to each other.
    ``numa`` shows what the guest's kernel makes of it all: "on", "off" (started
    with numa=off), or "hidden" (the same, and no nodes listed in sysfs).
    ``cgroup`` is the version of the control groups that hold cpuset.
    ``kernel`` is the package that depends on the newest kernel, and ``suite`` the one of
    Debian that has it: "" is the host's own, "-backports" that of its backports.
    ``architecture`` is that of the processors, and ``page_size`` in bytes the kernel's.
    ``firmware`` is whether the machine has UEFI and ACPI, without which an Arm machine has
    a device tree: that has no node for a GPU (see README.md).
    """

    name: str
    sockets: int
    cores: int
    threads: int
    nodes: tuple[Node, ...]
    distances: tuple[tuple[int, ...], ...] = ()
    gpus: tuple[int | None, ...] = ()
    numa: str = "on"
    cgroup: int = 2
    kernel_args: tuple[str, ...] = ()
    kernel: str = "linux-image-amd64"
    suite: str = ""
    architecture: str = "x86_64"
    page_size: int = 4096
    firmware: bool = True

    def distance(self, here: Node, there: Node) -> int:
        if self.distances:
            return self.distances[self.nodes.index(here)][self.nodes.index(there)]
        return LOCAL if here == there else REMOTE

    @property
    def memory(self) -> int:
        return sum(node.memory for node in self.nodes)

    @property
    def online_nodes(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if not node.absent)

    @property
    def filled_slots(self) -> tuple[int, ...]:
        """The slots that hold a processor; the guest numbers them from 0 on."""
        return tuple(sorted(slot for node in self.online_nodes for slot in node.slots))

    @property
    def online_cpus(self) -> tuple[int, ...]:
        return tuple(range(len(self.filled_slots)))

    def cpus(self, node: Node) -> tuple[int, ...]:
        """The processors of a node, as the guest numbers them."""
        return tuple(cpu for cpu, slot in enumerate(self.filled_slots) if slot in node.slots)

    @property
    def gpu_nodes(self) -> tuple[int, ...]:
        """The nodes that have GPUs."""
        return tuple(sorted({node for node in self.gpus if node is not None}))

    @property
    def visible_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs in their order in ``gpus``.

        Each node with GPUs has a host bridge of its own, and each such GPU a
        root port there; a GPU without a node sits on the machine's root bus, as
        all do without firmware.
        """
        gpus = []
        ports: dict[int | None, int] = {}
        for node in self.gpus:
            bridge = node if self.firmware else None
            port = ports.get(bridge, 0)
            ports[bridge] = port + 1
            if bridge is None:
                address = f"0000:00:{ROOT_BUS_SLOT + port:02x}.0"
            else:
                bus = bridge_bus(self.gpu_nodes.index(bridge))
                address = f"0000:{bus + 1 + port:02x}:00.0"
            gpus.append(Gpu(address, node))
        return tuple(gpus)


#: First device number of the GPUs on the root bus.
ROOT_BUS_SLOT = 0x10


def bridge_bus(index: int) -> int:
    """The bus number of a machine's host bridge number ``index``."""
    return 0x20 * (index + 1)


TWO_PACKAGE = Machine(
    name="two-package",
    sockets=2,
    cores=2,
    threads=2,
    nodes=(
        Node(0, slots=(0, 1), memory=512),
        Node(1, slots=(2, 3), memory=512),
        Node(2, slots=(4, 5), memory=512),
        Node(3, slots=(6, 7), memory=512),
    ),
    distances=(
        (10, 12, 21, 21),
        (12, 10, 21, 21),
        (21, 21, 10, 12),
        (21, 21, 12, 10),
    ),
    gpus=(0, 1, 3, 3, None),
)

#: The same with a newer kernel: 6.12 beside the 6.1 of Debian 12. The tests state what differs.
TWO_PACKAGE_BACKPORTS = replace(TWO_PACKAGE, name="two-package-backports", suite="-backports")

GRACE = Machine(
    name="grace",
    sockets=2,
    cores=4,
    threads=1,
    nodes=(
        Node(0, slots=(0, 1, 2, 3), memory=512),
        Node(1, slots=(4, 5, 6, 7), memory=512),
        Node(2, memory=512),
        Node(3, memory=512),
    ),
    distances=(
        (10, 40, 80, 120),
        (40, 10, 120, 80),
        (80, 120, 10, 160),
        (120, 80, 160, 10),
    ),
    gpus=(0, 1),
    cgroup=1,
)

MEMORYLESS = Machine(
    name="memoryless",
    sockets=3,
    cores=1,
    threads=2,
    nodes=(
        Node(0, slots=(0, 1), memory=512),
        Node(1, slots=(2, 3)),
        Node(2, slots=(4, 5), memory=512),
    ),
    distances=((10, 12, 20), (12, 10, 20), (20, 20, 10)),
    gpus=(1, 2),
)

SPARSE = Machine(
    name="sparse",
    sockets=7,
    cores=1,
    threads=2,
    nodes=tuple(
        Node(
            number,
            slots=(2 * number, 2 * number + 1),
            memory=0 if absent else 512,
            absent=absent,
        )
        for number, absent in enumerate((False, True, True, True, False, True, False))
    ),
    gpus=(4, 6),
)

SINGLE = Machine(
    name="single",
    sockets=1,
    cores=2,
    threads=2,
    nodes=(Node(0, slots=(0, 1, 2, 3), memory=1024),),
    gpus=(0, None),
    cgroup=1,
)

NUMA_OFF = Machine(
    name="numa-off",
    sockets=2,
    cores=1,
    threads=2,
    nodes=(Node(0, slots=(0, 1), memory=512), Node(1, slots=(2, 3), memory=512)),
    gpus=(0, 1),
    numa="off",
)

NO_NUMA = Machine(
    name="no-numa",
    sockets=2,
    cores=1,
    threads=2,
    nodes=(Node(0, slots=(0, 1), memory=512), Node(1, slots=(2, 3), memory=512)),
    gpus=(0, 1),
    numa="hidden",
)

#: One node that the kernel shows as four, each with all processors and a quarter of the memory.
NUMA_FAKE = Machine(
    name="numa-fake",
    sockets=1,
    cores=2,
    threads=2,
    nodes=(Node(0, slots=(0, 1, 2, 3), memory=1024),),
    gpus=(0, None),
    kernel_args=("numa=fake=4",),
)

#: Enough memory for Ray, and no more processors than it takes: each slows the others down.
LARGE = Machine(
    name="large",
    sockets=4,
    cores=1,
    threads=1,
    nodes=tuple(Node(number, slots=(number,), memory=2048) for number in range(4)),
    gpus=(0, 1, 2, 3),
)

#: Arm processors, as GH200 and GB200 have them: nodes 2 and 3 are memory alone, as that of their GPUs is.
ARM_GRACE = replace(GRACE, name="arm-grace", architecture="aarch64", kernel="linux-image-arm64")

ARM_TWO_PACKAGE = replace(TWO_PACKAGE, name="arm-two-package", architecture="aarch64", kernel="linux-image-arm64")

#: Debian has no kernel with pages of 64 KiB. This one panics with firmware and several host bridges.
ARM_16K = replace(
    ARM_TWO_PACKAGE,
    name="arm-16k",
    kernel="linux-image-arm64-16k",
    suite="-backports",
    page_size=16384,
    firmware=False,
    # All on one bus, and in the order of the others' addresses, where the root bus comes first.
    gpus=(None, 0, 1, 3, 3),
)

#: In the order in which they are booted: those whose tests take longest are first, so that both end side by side.
MACHINES = {
    machine.name: machine
    for machine in (
        *(TWO_PACKAGE, LARGE, MEMORYLESS, TWO_PACKAGE_BACKPORTS, NUMA_FAKE, GRACE, SPARSE, SINGLE, NUMA_OFF, NO_NUMA),
        *(ARM_TWO_PACKAGE, ARM_16K, ARM_GRACE),
    )
}


def chosen() -> tuple[Machine, ...]:
    """The machines whose architecture is that of VM_ARCH, x86_64 by default."""
    architecture = os.environ.get("VM_ARCH") or "x86_64"
    machines = tuple(machine for machine in MACHINES.values() if machine.architecture == architecture)
    if not machines:
        known = " and ".join(sorted({machine.architecture for machine in MACHINES.values()}))
        raise ValueError(f"VM_ARCH={architecture}: there are machines of {known} only")
    return machines
