"""`Host`: a topology together with the operating system that runs on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol, cast

import attrs

from affinity.errors import ForeignHostError, TopologyError, UsageError
from affinity.handoff import baseline_cpus
from affinity.kernel.linux import THIS_PROCESS, LinuxKernel
from affinity.kernel.protocol import Kernel
from affinity.topology import allowed, sysfs
from affinity.topology.cpuset import CpuSet, NodeSet, cpu_set, node_set
from affinity.topology.model import Origin, Topology


@attrs.frozen
class Host:
    """The machine, its kernel, and what this process may use of them.

    allowed_cpus, allowed_nodes: what was allowed before this framework bound anything.
    capture_notes: what a captured machine's files lack.
    """

    topology: Topology
    kernel: Kernel
    allowed_cpus: CpuSet
    allowed_nodes: NodeSet
    capture_notes: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if isinstance(self.kernel, LinuxKernel) and self.topology.origin is not Origin.LIVE:
            raise ForeignHostError(
                f"the topology is a {self.topology.origin.value} ({self.topology.detail}), not this machine: "
                "it can be planned for, never bound; use affinity.testing.FakeHost to try a binding on it"
            )

    @classmethod
    def live(cls, kernel: Kernel | None = None) -> Host:
        """Return this machine, or that of an open `affinity.testing.FakeHost.installed` block.

        Raises SystemFileError if a file of /sys or /proc cannot be read.
        """
        simulation = _simulation
        if kernel is None and simulation is not None:
            return simulation.host
        kernel = kernel or THIS_PROCESS
        topology = sysfs.load("/")
        return cls(topology, kernel, baseline_cpus(kernel) & topology.online, kernel.allowed_nodes())

    @property
    def notes(self) -> tuple[str, ...]:
        """What the files of the machine read so far lack, and which of their records could not be used."""
        return (*self.capture_notes, *self.topology.notes)

    @classmethod
    def from_root(
        cls, root: str, *, allowed_cpus: CpuSet | str | None = None, allowed_nodes: NodeSet | str | None = None
    ) -> Host:
        """Return another machine from its captured files (a directory with `sys/` in it), or from an archive of them.

        Allowed is what is given (as text too: `0-3,8`), else what the capture shows (`topology.allowed`), else all that
        is online. Raise UsageError if what is given is not on the machine.
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
        captured = allowed.read_allowed(root)
        topology = sysfs.load(os.path.normpath(root) + "/")
        notes = captured.notes if allowed_cpus is None else ()
        # A cpuset of cgroup version 1 may list CPUs that are offline.
        if allowed_cpus is None and captured.cpus is not None:
            allowed_cpus = captured.cpus & topology.online
        if allowed_nodes is None and captured.nodes is not None:
            allowed_nodes = captured.nodes & NodeSet(topology.by_id)
        found = cls.foreign(topology, allowed_cpus=allowed_cpus, allowed_nodes=allowed_nodes)
        return attrs.evolve(found, capture_notes=notes)

    @classmethod
    def synthetic(
        cls, text: str, *, allowed_cpus: CpuSet | str | None = None, allowed_nodes: NodeSet | str | None = None
    ) -> Host:
        """Return the machine that one line describes (grammar: affinity.topology.synthetic)."""
        from affinity.topology import synthetic

        return cls.foreign(synthetic.load(text), allowed_cpus=allowed_cpus, allowed_nodes=allowed_nodes)

    @classmethod
    def foreign(
        cls,
        topology: Topology,
        *,
        allowed_cpus: CpuSet | str | None = None,
        allowed_nodes: NodeSet | str | None = None,
    ) -> Host:
        """Return a machine to plan for. Allowed is what is given, else all that is online.

        Raise UsageError if what is given is not on the machine.
        """
        online, all_nodes = topology.online, NodeSet(topology.by_id)
        cpus = online if allowed_cpus is None else cpu_set(allowed_cpus)
        nodes = all_nodes if allowed_nodes is None else node_set(allowed_nodes)
        if cpus - online:
            raise UsageError(f"allowed CPUs {cpus - online} are not on the machine: online CPUs are {online}")
        if nodes - all_nodes:
            raise UsageError(f"allowed nodes {nodes - all_nodes} are not on the machine: online nodes are {all_nodes}")
        return cls(topology, cast(Kernel, NoKernel()), cpus, nodes)

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


class Simulation(Protocol):
    """A simulated process on its machine: `affinity.testing.FakeHost`."""

    @property
    def host(self) -> Host: ...

    @property
    def kernel(self) -> Kernel: ...


_simulation: Simulation | None = None


@contextmanager
def simulated(simulation: Simulation) -> Iterator[None]:
    """Let the calls without `host=` in this block, in every thread, act on the simulation."""
    global _simulation
    outer, _simulation = _simulation, simulation
    try:
        yield
    finally:
        _simulation = outer


def this_process() -> Kernel:
    """Return the process that a call without `host=` acts on: this one, or that of an open `simulated` block."""
    simulation = _simulation
    return THIS_PROCESS if simulation is None else simulation.kernel
