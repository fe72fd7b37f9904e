"""`Host`: a topology together with the operating system that runs on it."""

from __future__ import annotations

import os
from typing import NoReturn, cast

import attrs

from affinity.errors import ForeignHostError, ListFormatError, TopologyError
from affinity.handoff import baseline_cpus
from affinity.kernel.linux import THIS_PROCESS, LinuxKernel
from affinity.kernel.protocol import Kernel
from affinity.topology import sysfs
from affinity.topology.cpuset import CpuSet, NodeSet
from affinity.topology.model import Origin, Topology


@attrs.frozen
class Host:
    """The machine, its kernel, and what this process may use of them.

    allowed_cpus, allowed_nodes: what was allowed before this framework bound anything.
    """

    topology: Topology
    kernel: Kernel
    allowed_cpus: CpuSet
    allowed_nodes: NodeSet

    def __attrs_post_init__(self) -> None:
        if isinstance(self.kernel, LinuxKernel) and self.topology.origin is not Origin.LIVE:
            raise ForeignHostError(
                f"the topology is a {self.topology.origin.value} ({self.topology.detail}), not this machine: "
                "it can be planned for, never bound; use affinity.testing.FakeHost to try a binding on it"
            )

    @classmethod
    def live(cls, kernel: Kernel = THIS_PROCESS) -> Host:
        """This machine."""
        topology = sysfs.load("/")
        return cls(topology, kernel, baseline_cpus(kernel) & topology.online, kernel.allowed_nodes())

    @classmethod
    def from_root(cls, root: str, *, allowed_cpus: CpuSet | None = None, allowed_nodes: NodeSet | None = None) -> Host:
        """Another machine's captured files (`root/sys/…`, `root/proc/self/status` if there), or an archive of them.

        Allowed is what is given, else what the capture says, else all that is online.
        """
        if os.path.isfile(root):
            from affinity.topology.archive import extracted, loaded

            with extracted(root) as directory:
                found = cls.from_root(directory, allowed_cpus=allowed_cpus, allowed_nodes=allowed_nodes)
                return attrs.evolve(found, topology=loaded(found.topology, root))
        if not os.path.isdir(os.path.join(root, "sys")):
            raise TopologyError(
                f"{root}: no directory 'sys' in it; expected a captured machine, as `affinity gather` writes"
            )
        captured = _captured_status(os.path.join(root, "proc/self/status"))
        return cls._foreign(
            sysfs.load(os.path.normpath(root) + "/"),
            allowed_cpus if allowed_cpus is not None else captured[0],
            allowed_nodes if allowed_nodes is not None else captured[1],
        )

    @classmethod
    def synthetic(cls, text: str, *, allowed_cpus: CpuSet | None = None, allowed_nodes: NodeSet | None = None) -> Host:
        """The machine that one line describes (grammar: affinity.topology.synthetic)."""
        from affinity.topology import synthetic

        return cls._foreign(synthetic.load(text), allowed_cpus, allowed_nodes)

    @classmethod
    def _foreign(cls, topology: Topology, cpus: CpuSet | None, nodes: NodeSet | None) -> Host:
        return cls(
            topology,
            cast(Kernel, NoKernel()),
            topology.online if cpus is None else cpus & topology.online,
            NodeSet(topology.by_id) if nodes is None else nodes & NodeSet(topology.by_id),
        )

    @property
    def is_foreign(self) -> bool:
        """True where this is not a machine that can be bound."""
        return isinstance(self.kernel, NoKernel)

    def require_this_machine(self) -> None:
        """Raises ForeignHostError where this is not a machine that can be bound."""
        if self.is_foreign:
            raise ForeignHostError(
                f"{self.topology.detail!r} is a {self.topology.origin.value}, not this machine: "
                "it is never bound, only planned for"
            )


class NoKernel:
    """The kernel of a machine that is not this one: there is nothing to call."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ForeignHostError(f"{name}: this topology is not this machine, so it is never bound, only planned for")


def _captured_status(path: str) -> tuple[CpuSet | None, NodeSet | None]:
    cpus, nodes = None, None
    try:
        for line in (sysfs.read_text(path) or "").splitlines():
            key, _, value = line.partition(":")
            if key == "Cpus_allowed_list":
                cpus = CpuSet.parse(value)
            elif key == "Mems_allowed_list":
                nodes = NodeSet.parse(value)
    except ListFormatError as wrong:
        raise TopologyError(f"{path}: {wrong}") from wrong
    return cpus, nodes
