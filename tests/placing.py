"""What the tests of placement share: machines made by hand, workers on them, and what every policy promises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from affinity import CpuSet, Host, LaunchMode, NodeSet, PlacementError, Settings
from affinity.devices import Gpu
from affinity.host import NoKernel
from affinity.kernel import MemoryMode
from affinity.launchers import Launch
from affinity.policies import Observation, Placement, PlacementPolicy
from affinity.registry import Registry
from affinity.topology import Cpu, Node, Origin, PciAddress, Topology
from affinity.topology.synthetic import StaticSource

POLICIES: Registry[PlacementPolicy] = Registry("affinity.policies", PlacementPolicy)  # type: ignore[type-abstract]

#: Policies that promise each GPU CPUs of its own.
DISJOINT = ("exclusive", "interleaved", "single-core", "even")


@attrs.frozen
class Core:
    """One physical core of a machine made by hand: its CPUs, and where it is."""

    cpus: tuple[int, ...]
    node: int
    l3: int
    package: int


def host(
    cores: Iterable[Core],
    *,
    nodes: Iterable[int] = (),
    memoryless: Iterable[int] = (),
    offline: Iterable[int] = (),
    allowed: CpuSet | None = None,
    allowed_nodes: NodeSet | None = None,
    twins: Mapping[int, int] | None = None,
) -> Host:
    """The machine of these cores. nodes: further ones, without CPUs. twins: further ones, each with the CPUs of a node.

    A kernel call on it raises ForeignHostError.
    """
    off, without = set(offline), set(memoryless)
    there = [c for c in (attrs.evolve(c, cpus=tuple(i for i in c.cpus if i not in off)) for c in cores) if c.cpus]
    lowest: dict[int, int] = {}
    for core in there:
        lowest[core.l3] = min(lowest.get(core.l3, core.cpus[0]), *core.cpus)
    cpus = {i: Cpu(i, core=min(c.cpus), l3=lowest[c.l3], package=c.package) for c in there for i in c.cpus}
    of = {n: n for n in (*(c.node for c in there), *nodes)} | dict(twins or {})
    ids = sorted(of)
    made = tuple(Node(n, CpuSet(i for c in there if c.node == of[n] for i in c.cpus), n not in without) for n in ids)
    topology = Topology(made, Origin.SYNTHETIC, "made by hand", StaticSource(cpus=cpus))
    everything = NodeSet(ids) if allowed_nodes is None else allowed_nodes
    return Host(topology, NoKernel(), topology.online if allowed is None else allowed & topology.online, everything)


def regular(packages: int, nodes: int, cores: int, *, l3: int = 1, threads: int = 1) -> list[Core]:
    """Cores as most x86 machines number them: thread t of core c is CPU c + t * (number of cores)."""
    total = packages * nodes * cores
    return [
        Core(
            cpus=tuple(c + t * total for t in range(threads)),
            node=c // cores,
            l3=c // cores * l3 + c % cores * l3 // cores,
            package=c // (nodes * cores),
        )
        for c in range(total)
    ]


def gpus(*nodes: int | None) -> tuple[Gpu, ...]:
    """A GPU next to each of these nodes, in PCI order; None is a GPU whose node is unknown."""
    return tuple(Gpu(PciAddress(0, bus, 0, 0), "nvidia", node=node) for bus, node in enumerate(nodes, 1))


def worker(everyone: Sequence[Gpu], *mine: int, rank: int | None = None, size: int | None = None) -> Launch:
    """The worker that has these GPUs of everyone's."""
    own = tuple(everyone[i] for i in mine)
    return Launch(LaunchMode.INLINE, gpus=own, machine_gpus=tuple(everyone), local_rank=rank, local_size=size)


def placed(policy: str, on: Host, launch: Launch, settings: Settings | None = None) -> str:
    """What a worker gets: a CPU list, `nothing` (no preference), or `impossible`."""
    try:
        placement = POLICIES.get(policy).place(Observation(on, launch, settings or Settings()))
    except PlacementError:
        return "impossible"
    return "nothing" if placement.cpus is None else str(placement.cpus)


def all_placed(policy: str, on: Host, everyone: Sequence[Gpu], settings: Settings | None = None) -> list[str]:
    """What each of everyone's workers gets, one GPU each."""
    return [placed(policy, on, worker(everyone, i), settings) for i in range(len(everyone))]


def check_promises(policy: str, on: Host, everyone: Sequence[Gpu], settings: Settings) -> None:
    """Assert everything that a policy promises, for one worker for each GPU."""
    if policy == "explicit":
        settings = attrs.evolve(settings, cpus=(on.allowed_cpus or CpuSet([0]),) * len(everyone))
    shares: dict[int, CpuSet] = {}
    for i in range(len(everyone)):
        try:
            placement = POLICIES.get(policy).place(Observation(on, worker(everyone, i), settings))
        except PlacementError as refused:
            assert len(str(refused)) > 20
            continue
        assert placement == POLICIES.get(policy).place(Observation(on, worker(everyone, i), settings)), (
            "not deterministic"
        )
        assert placement.reason
        if placement.cpus is None:
            assert everyone[i].node is None, "only an unknown node is no preference"
            assert policy not in ("even", "explicit"), f"{policy} needs no node"
            assert placement.memory is None
            continue
        assert placement.cpus, "an empty mask"
        assert placement.cpus <= on.allowed_cpus
        _check_memory(placement, placement.cpus, on, settings)
        shares[i] = placement.cpus
    if policy != "explicit":
        for share in shares.values():
            _check_options(share, on, settings)
    enough = policy in DISJOINT or (policy == "core-complex" and _enough_domains(on, everyone, settings))
    for i, mine in shares.items():
        for j, other in shares.items():
            assert not (enough and i < j) or mine.isdisjoint(other), f"GPUs {i} and {j} share CPUs {mine & other}"
            both = POLICIES.get(policy).place(Observation(on, worker(everyone, i, j), settings)).cpus
            assert both == mine | other, "several GPUs get what each of them gets"


def _check_memory(placement: Placement, cpus: CpuSet, on: Host, settings: Settings) -> None:
    if placement.memory is None or placement.memory.mode is MemoryMode.LOCAL:
        return
    nodes = placement.memory.nodes
    assert nodes
    assert nodes <= on.allowed_nodes & on.topology.memory_nodes & on.topology.nodes_of(cpus)
    assert (
        settings.memory is not MemoryMode.PREFERRED
        or len(nodes) == 1
        or (placement.memory.mode is MemoryMode.PREFERRED_MANY)
    )


def _check_options(share: CpuSet, on: Host, settings: Settings) -> None:
    """Whole cores, less what the operator's options take away, worked out the slow way."""
    for node in on.topology.nodes:
        for position, core in enumerate(cores_of(on, node.id)):
            taken = share & core
            if position < settings.reserve:
                assert not taken, f"core {core} of node {node.id} is reserved"
            elif taken:
                whole = core & on.allowed_cpus
                assert taken == (whole if settings.smt == "all" else CpuSet([whole.first()])), f"core {core} is cut"


def cores_of(on: Host, node: int) -> list[CpuSet]:
    """Every online physical core of a node, lowest number first."""
    numbers = sorted({on.topology.cpus[i].core for i in on.topology.by_id[node].cpus})
    return [CpuSet(i for i, cpu in on.topology.cpus.items() if cpu.core == n) for n in numbers]


def _enough_domains(on: Host, everyone: Sequence[Gpu], settings: Settings) -> bool:
    domains: Mapping[int, set[int]] = {node.id: set() for node in on.topology.nodes}
    for node in domains:
        for core in cores_of(on, node)[settings.reserve :]:
            domains[node].update(on.topology.cpus[i].l3 for i in core & on.allowed_cpus)
    known = [gpu.node for gpu in everyone if gpu.node is not None]
    sharing = {node: on.topology.sharing_nodes(node) for node in known}
    return all(sum(other in sharing[node] for other in known) <= len(domains.get(node, ())) for node in sharing)
