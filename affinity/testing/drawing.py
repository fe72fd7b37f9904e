"""Drawing of a machine as text, for failure reports."""

from __future__ import annotations

from affinity import CpuSet, NodeSet
from affinity.topology import Topology


def draw(topology: Topology, allowed_cpus: CpuSet | None = None, allowed_nodes: NodeSet | None = None) -> str:
    """Return a line for each node: package, CPUs, memory and PCI devices, and the allowed CPUs if not all are."""
    lines = [f"machine {topology.detail} ({topology.origin.value})"]
    for node in topology.nodes:
        packages = sorted({topology.cpus[cpu].package for cpu in node.cpus if cpu in topology.cpus})
        parts = [f"  node {node.id}:"]
        parts.append(f"CPUs {node.cpus} of package {', '.join(map(str, packages))}," if node.cpus else "no CPUs,")
        if allowed_cpus is not None and node.cpus and not node.cpus <= allowed_cpus:
            parts.append(f"allowed {node.cpus & allowed_cpus or 'none'},")
        parts.append(f"{topology.memory.get(node.id, 0) / (1 << 30):g} GiB" if node.has_memory else "no memory")
        if allowed_nodes is not None and node.has_memory and node.id not in allowed_nodes:
            parts.append("(not allowed)")
        lines.append(" ".join(parts) + _devices(topology, node.id))
    unknown = _devices(topology, None)
    return "\n".join([*lines, f"  node unknown{unknown}"] if unknown else lines)


def _devices(topology: Topology, node: int | None) -> str:
    here = [str(d.address) for d in topology.pci_devices if d.numa_node == node]
    return f"; PCI {', '.join(here)}" if here else ""
