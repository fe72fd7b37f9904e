"""Named machines: `machines.load("dgx-h100")` returns the topology, `machines.get("dgx-h100")` the record.

Each machine is one function in `nvidia`, `others` or `virtual`, whose docstring has its source: "as published" if a
page or a report shows the figures, "shape only" if only the numbers of nodes, CPUs and GPUs are known. UUIDs are made
up, and so are PCI addresses that no source shows. Memory sizes are the usual ones of the model.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from affinity.errors import UsageError
from affinity.testing.machines import nvidia, others, virtual
from affinity.testing.machines.model import Machine, MachineGpu, MachineNode, Smt
from affinity.topology.model import Topology

if TYPE_CHECKING:
    from affinity.host import Host
    from affinity.topology.cpuset import CpuSet, NodeSet

__all__ = ["Machine", "MachineGpu", "MachineNode", "Smt", "get", "host", "load", "names"]

_MAKERS: dict[str, Callable[[], Machine]] = {
    make.__name__.replace("_", "-"): make  # one machine, one function
    for module in (nvidia, others, virtual)
    for make in module.MACHINES
}


def names() -> tuple[str, ...]:
    """Return the names of all machines, in alphabetical order."""
    return tuple(sorted(_MAKERS))


def get(name: str) -> Machine:
    """Return the record of a named machine. Raise UsageError with similar names if there is none."""
    if name not in _MAKERS:
        near = difflib.get_close_matches(name, _MAKERS, n=3, cutoff=0.4)
        remedy = f"did you mean {', '.join(near)}?" if near else "`affinity machines` lists them"
        raise UsageError(f"no machine {name!r}: {remedy}")
    make = _MAKERS[name]
    return attrs.evolve(make(), name=name, source=" ".join((make.__doc__ or "").split()))


def host(name: str, *, allowed_cpus: CpuSet | str | None = None, allowed_nodes: NodeSet | str | None = None) -> Host:
    """Return a named machine to plan for. Allowed is what is given, else the cpuset of its record, else all of it."""
    from affinity.host import Host

    machine = get(name)
    return Host.foreign(
        machine.topology(),
        allowed_cpus=machine.allowed_cpus if allowed_cpus is None else allowed_cpus,
        allowed_nodes=machine.allowed_nodes if allowed_nodes is None else allowed_nodes,
    )


def load(what: str) -> Topology:
    """Return the topology of a named machine, of a synthetic line (`pack:2 numa:2 core:4`), or of a captured tree.

    Raise UsageError for an unknown name, SyntheticError for a malformed line, TopologyError for a bad capture.
    """
    if what in _MAKERS:
        return get(what).topology()
    if os.path.exists(what):
        from affinity.host import Host

        return Host.from_root(what).topology
    if ":" in what:
        from affinity.topology import synthetic

        return synthetic.load(what)
    return get(what).topology()
