"""Whether the node of each GPU is known, and its CPUs and memory may be used."""

from __future__ import annotations

from collections.abc import Iterator

from affinity.doctor.check import Check, Subject, Verdict
from affinity.policies.policy import WIDEN_CPUS
from affinity.report.remedy import cpuset_command
from affinity.topology.allowed import cpuset_name
from affinity.topology.cpuset import NodeSet


def check_gpus(subject: Subject) -> Iterator[Check]:
    """Yield which GPUs are visible, what their providers report, and each reason for an unknown node."""
    launch = subject.observation.launch
    if not launch.gpus:
        remedy = "give the container its GPUs, or name a node (`affinity run --node N`)"
        yield Check("GPUs", "none is visible to this process", Verdict.NOTE, remedy)
    known = [gpu.node for gpu in launch.gpus if gpu.node is not None]
    if known:
        mig = sum(len(gpu.mig_uuids) for gpu in launch.gpus)
        yield Check("GPUs", f"{len(known)} on nodes {NodeSet(known)}" + (f", {mig} MIG devices" if mig else ""))
    unknown: dict[str, list[str]] = {}
    for gpu in launch.gpus:
        if gpu.node is None:
            unknown.setdefault(gpu.node_reason, []).append(str(gpu))
    for reason, names in unknown.items():
        remedy = "set AFFINITY_NODES to the node of each GPU in PCI order"
        yield Check("GPU node", f"{', '.join(names)}: {reason}", Verdict.UNKNOWN, remedy)
    for note in dict.fromkeys((*launch.notes, *subject.host.notes)):
        if note in subject.observation.ignored:
            continue  # a variable, which `settings` has
        value, _, remedy = note.partition("; ")
        yield Check("devices", value, Verdict.NOTE, remedy or "compare with `affinity show`")


def check_allowed(subject: Subject) -> Iterator[Check]:
    """Yield whether the CPUs and the memory of the GPUs' nodes may be used."""
    host = subject.host
    yield Check("allowed", f"CPUs {host.allowed_cpus or 'none'}, memory of node {host.allowed_nodes or 'none'}")
    nodes = NodeSet(gpu.node for gpu in subject.observation.launch.gpus if gpu.node is not None)
    for node in nodes:
        cpus = host.topology.cpus_of(NodeSet([node]))
        allowed = cpus & host.allowed_cpus
        if allowed != cpus:
            verdict = Verdict.NOTE if allowed else Verdict.BLOCKED
            yield Check("allowed CPUs", f"{allowed or 'none'} of {cpus} on node {node}", verdict, WIDEN_CPUS)
    missing = (nodes & host.topology.memory_nodes) - host.allowed_nodes
    if missing:
        group = "" if subject.root is None else cpuset_name(subject.root)
        remedy = cpuset_command(group, host.allowed_nodes | missing) or "widen cpuset.mems of its control group"
        yield Check("allowed memory", f"not that of node {missing}, where a GPU is", Verdict.BLOCKED, remedy)


def check_nodes(subject: Subject) -> Iterator[Check]:
    """Yield how many nodes the machine has, and which of them are unusual."""
    topology = subject.host.topology
    with_cpus, others = topology.cpu_nodes, NodeSet(topology.by_id) - topology.cpu_nodes
    if len(with_cpus) > 1:
        yield Check("nodes", f"{len(with_cpus)} with CPUs ({with_cpus})")
    elif "hypervisor" in (subject.read("proc/cpuinfo") or "").partition("\nflags")[2].partition("\n")[0].split():
        value = f"one with CPUs ({with_cpus}), as the virtual machine shows it: its host may have more"
        yield Check("nodes", value, Verdict.NOTE, "give the virtual machine the nodes of its host (vNUMA)")
    else:
        value = f"one with CPUs ({with_cpus}): every CPU and page is local already"
        several = len(subject.observation.launch.machine_gpus) > 1
        remedy = "divide its cores among the workers of its GPUs: AFFINITY_POLICY=exclusive" if several else ""
        yield Check("nodes", value, Verdict.NOTE if several else Verdict.OK, remedy)
    if others:
        value = f"{others} without CPUs (memory of GPUs, or an expansion)"
        yield Check("nodes without CPUs", value, Verdict.NOTE, "name nodes with CPUs in AFFINITY_NODES and --node")
    packages: dict[str, NodeSet] = {}
    for node in topology.nodes:
        file = f"sys/devices/system/cpu/cpu{node.cpus.first()}/topology/physical_package_id" if node.cpus else ""
        package = subject.read(file) if file else None
        if package is not None:
            packages[package] = packages.get(package, NodeSet()) | NodeSet([node.id])
    most = max(map(len, packages.values()), default=1)
    if most > 1:
        value = f"up to {most} nodes in a socket (sub-NUMA clustering)"
        yield Check("sockets", value, Verdict.NOTE, "AFFINITY_POLICY=socket places on all nodes of a GPU's socket")
