"""The placement policies: one table of machines run against every policy, then each policy's own rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from placing import POLICIES, Core, all_placed, check_promises, gpus, host, placed, regular, worker

import affinity
from affinity import CpuSet, Host, LaunchMode, NodeSet, PlacementError, Settings, SettingsError
from affinity.devices import Gpu
from affinity.devices.inventory import placeholder_gpu
from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.launchers import Launch
from affinity.policies import Observation, Placement
from affinity.policies.policy import missing_memory_reason
from affinity.testing import FakeHost

BUILT_IN = ("core-complex", "even", "exclusive", "explicit", "interleaved", "node", "single-core", "socket")

#: Two packages of two nodes of four cores with two threads: node n has CPUs 4n to 4n+3 and 16 more; two L3 a node.
FOUR_NODES = regular(2, 2, 4, l3=2, threads=2)


@attrs.frozen
class Case:
    """A machine, its GPUs and the options, for every policy."""

    name: str
    on: Host
    everyone: Sequence[Gpu]
    settings: Settings = Settings()


SHARED = [
    Case("a GPU on each node", host(FOUR_NODES), gpus(0, 1, 2, 3)),
    Case("all GPUs on one node", host(FOUR_NODES), gpus(1, 1, 1)),
    Case("GPUs not in node order", host(FOUR_NODES), gpus(3, 0, 3, 1)),
    Case("more GPUs than cores", host(FOUR_NODES), gpus(0, 0, 0, 0, 0, 0)),
    Case("a GPU of unknown node", host(FOUR_NODES), gpus(0, None, 2)),
    Case("one CPU is allowed", host(FOUR_NODES, allowed=CpuSet([21])), gpus(0, 1, 1)),
    Case("the cpuset cuts cores in half", host(FOUR_NODES, allowed=CpuSet.parse("0-2,16-17,5,22")), gpus(0, 0, 1)),
    Case("nothing is allowed", host(FOUR_NODES, allowed=CpuSet()), gpus(0, 1)),
    Case("no memory node is allowed", host(FOUR_NODES, allowed_nodes=NodeSet()), gpus(0, 1)),
    Case("a node without memory", host(FOUR_NODES, memoryless=[1]), gpus(0, 1)),
    Case("nodes without CPUs, sparse ids", host(regular(1, 1, 4), nodes=[2, 9, 255]), gpus(0, 9)),
    Case("offline threads and cores", host(FOUR_NODES, offline=[0, 17, 2, 18]), gpus(0, 0)),
    Case("a GPU on a node that is not online", host(FOUR_NODES), gpus(7, 0)),
    Case("one thread of each core", host(FOUR_NODES), gpus(0, 0, 2), Settings(smt="one")),
    Case("cores in reserve", host(FOUR_NODES), gpus(0, 0, 2), Settings(reserve=2)),
    Case("everything in reserve", host(FOUR_NODES), gpus(0, 2), Settings(reserve=4)),
    Case("the package is split", host(FOUR_NODES), gpus(1, 1, 3), Settings(scope="socket")),
    Case("memory is bound", host(FOUR_NODES), gpus(0, 1), Settings(memory=MemoryMode.BIND)),
    Case("a small machine", host(regular(1, 1, 1)), gpus(0)),
    Case("no GPU at all", host(FOUR_NODES), ()),
    Case(
        "an asymmetric machine",
        host([Core((0,), 0, 0, 0), Core((1, 2), 0, 1, 0), Core((3, 4, 5, 6), 4, 3, 1), Core((7,), 4, 3, 1)]),
        gpus(0, 4, 4),
    ),
]


@pytest.mark.parametrize("policy", POLICIES.names())
@pytest.mark.parametrize("case", SHARED, ids=lambda case: case.name)
def test_every_policy_keeps_every_promise_on_every_machine(policy: str, case: Case) -> None:
    """Allowed CPUs only, never none, whole cores, options obeyed, disjoint where promised, the kernel untouched."""
    check_promises(policy, case.on, case.everyone, case.settings)


def test_the_built_in_policies_are_installed() -> None:
    """The names are public: operators write them into their environments."""
    assert set(BUILT_IN) <= set(POLICIES.names())


@pytest.mark.parametrize("policy", BUILT_IN)
def test_a_worker_named_by_node_gets_the_node(policy: str) -> None:
    """Without a GPU no one finds that shares the node: the whole node, of `socket` the whole package."""
    launch = Launch(LaunchMode.INLINE, nodes=NodeSet([2]))
    expected = "8-15,24-31" if policy == "socket" else "8-11,24-27"
    assert placed(policy, host(FOUR_NODES), launch, Settings(cpus=(CpuSet([0]),))) == expected


@pytest.mark.parametrize("policy", BUILT_IN)
@pytest.mark.parametrize("node", [5, 7])
def test_a_named_node_without_cpus_or_not_there_is_an_error(policy: str, node: int) -> None:
    """Node 5 has no CPUs, node 7 does not exist: both are printed, with the nodes that would do."""
    launch = Launch(LaunchMode.INLINE, nodes=NodeSet([node]))
    with pytest.raises(PlacementError, match="nodes with CPUs are 0-3" if node == 5 else "online nodes are 0-3,5"):
        POLICIES.get(policy).place(Observation(host(FOUR_NODES, nodes=[5]), launch, Settings()))


@pytest.mark.parametrize("policy", [p for p in BUILT_IN if p not in ("even", "explicit")])
def test_an_unknown_node_is_no_preference(policy: str) -> None:
    """-1 is unknown, never node 0: CPUs and memory are left alone, and the reason states why."""
    placement = POLICIES.get(policy).place(Observation(host(FOUR_NODES), worker(gpus(None, 0), 0), Settings()))
    assert placement == Placement(None, None, reason="no GPU's node is known")


@pytest.mark.parametrize("policy", ["exclusive", "interleaved", "core-complex", "single-core", "even"])
def test_a_gpu_is_known_by_its_address_not_by_its_other_facts(policy: str) -> None:
    """A worker whose driver reported it a model name still finds its GPU among those that sysfs listed."""
    everyone = gpus(0, 0)
    mine = attrs.evolve(everyone[1], model="H100", uuid="GPU-1", node=None)
    launch = attrs.evolve(worker(everyone), gpus=(mine,))
    assert placed(policy, host(FOUR_NODES), launch) == placed(policy, host(FOUR_NODES), worker(everyone, 1))


def test_a_gpu_that_is_not_among_the_machines_is_an_error_for_a_split() -> None:
    """Its share cannot be known; taking the first one would give it another GPU's cores."""
    launch = Launch(LaunchMode.INLINE, gpus=gpus(0, 0)[1:], machine_gpus=gpus(0))
    with pytest.raises(PlacementError, match=r"0000:02:00\.0 is not among the GPUs of this machine"):
        POLICIES.get("exclusive").place(Observation(host(FOUR_NODES), launch, Settings()))


def test_stand_ins_split_as_gpus_do() -> None:
    """A machine without GPUs can be tried out: placeholders are reported apart by their labels."""
    everyone = (placeholder_gpu(0, 1), placeholder_gpu(1, 1))
    assert all_placed("exclusive", host(FOUR_NODES), everyone) == ["4-5,20-21", "6-7,22-23"]


# ---------------------------------------------------------------- each policy's own rows

NODE = [
    ("its node", {}, gpus(0, 3), Settings(), ["0-3,16-19", "12-15,28-31"]),
    ("what is allowed of it", {"allowed": CpuSet.parse("2-9")}, gpus(0, 1), Settings(), ["2-3", "4-7"]),
    ("one thread of each core", {}, gpus(1), Settings(smt="one"), ["4-7"]),
    ("the allowed thread of each core", {"allowed": CpuSet.parse("4,20-21")}, gpus(1), Settings(smt="one"), ["4,21"]),
    ("not the reserved cores", {}, gpus(1), Settings(reserve=1), ["5-7,21-23"]),
    ("a core already out of reach is the reserved one", {"allowed": CpuSet.parse("5-7")}, gpus(1),
     Settings(reserve=1), ["5-7"]),
    ("scope does not widen it", {}, gpus(1), Settings(scope="socket"), ["4-7,20-23"]),
]  # fmt: skip
SOCKET = [
    ("its package", {}, gpus(0, 1, 2), Settings(), ["0-7,16-23", "0-7,16-23", "8-15,24-31"]),
    ("nodes without CPUs do no harm", {"nodes": [5, 6]}, gpus(3), Settings(), ["8-15,24-31"]),
    ("a neighbour helps out", {"allowed": CpuSet.parse("4-9")}, gpus(0), Settings(), ["4-7"]),
    ("no other package helps out", {"allowed": CpuSet.parse("8-9")}, gpus(0), Settings(), ["impossible"]),
    ("a core of each node in reserve", {}, gpus(0), Settings(reserve=1, smt="one"), ["1-3,5-7"]),
]
EXCLUSIVE = [
    ("one GPU has the node", {}, gpus(0, 1), Settings(), ["0-3,16-19", "4-7,20-23"]),
    ("runs of whole cores", {}, gpus(0, 0), Settings(), ["0-1,16-17", "2-3,18-19"]),
    ("the first take the remainder", {}, gpus(0, 0, 0), Settings(), ["0-1,16-17", "2,18", "3,19"]),
    ("too few cores for this node's GPUs alone", {"allowed": CpuSet.parse("0,4-7")}, gpus(0, 0, 1), Settings(),
     ["impossible", "impossible", "4-7"]),
    ("half a core counts as one", {"allowed": CpuSet.parse("0,16,17")}, gpus(0, 0), Settings(), ["0,16", "17"]),
    ("one thread of each", {}, gpus(0, 0), Settings(smt="one"), ["0-1", "2-3"]),
    ("what is not in reserve", {}, gpus(0, 0), Settings(reserve=1), ["1-2,17-18", "3,19"]),
    ("a package's idle node joins", {}, gpus(0, 0), Settings(scope="socket"), ["0-1,4-5,16-17,20-21",
                                                                                "2-3,6-7,18-19,22-23"]),
    ("no idle node, no change", {}, gpus(0, 1), Settings(scope="socket"), ["0-3,16-19", "4-7,20-23"]),
    ("GPUs of unknown node take no share", {}, gpus(0, None), Settings(), ["0-3,16-19", "nothing"]),
]  # fmt: skip
INTERLEAVED = [
    ("in turn", {}, gpus(0, 0), Settings(), ["0,2,16,18", "1,3,17,19"]),
    ("the first take the remainder", {}, gpus(0, 0, 0), Settings(), ["0,3,16,19", "1,17", "2,18"]),
    ("too few cores", {"allowed": CpuSet.parse("0")}, gpus(0, 0), Settings(), ["impossible", "impossible"]),
    ("a package's idle node joins", {}, gpus(0, 0), Settings(scope="socket", smt="one"), ["0,2,4,6", "1,3,5,7"]),
]
CORE_COMPLEX = [
    ("a domain each", {}, gpus(0, 0), Settings(), ["0-1,16-17", "2-3,18-19"]),
    ("shared in turn", {}, gpus(0, 0, 0), Settings(), ["0-1,16-17", "2-3,18-19", "0-1,16-17"]),
    ("the larger first", {"allowed": CpuSet.parse("0,2-3")}, gpus(0, 0), Settings(), ["2-3", "0"]),
    ("the larger after the reserve", {}, gpus(0), Settings(reserve=1), ["2-3,18-19"]),
    ("one thread of each", {}, gpus(1), Settings(smt="one"), ["4-5"]),
]
SINGLE_CORE = [
    ("a core each", {}, gpus(0, 0, 1), Settings(), ["0,16", "1,17", "4,20"]),
    ("one thread of it", {}, gpus(0, 0), Settings(smt="one"), ["0", "1"]),
    ("the first that is not in reserve", {}, gpus(0), Settings(reserve=3), ["3,19"]),
    ("too few", {"allowed": CpuSet.parse("0,16")}, gpus(0, 0), Settings(), ["impossible", "impossible"]),
    ("scope does not widen it", {}, gpus(0), Settings(scope="socket"), ["0,16"]),
]
EVEN = [
    ("halves, wherever the GPUs are", {}, gpus(3, 3), Settings(), ["0-7,16-23", "8-15,24-31"]),
    ("GPUs of unknown node too", {}, gpus(None, None), Settings(smt="one"), ["0-7", "8-15"]),
    ("of what is allowed; the first take the remainder", {"allowed": CpuSet.parse("0-2,9-10")}, gpus(0, 0), Settings(),
     ["0-2", "9-10"]),
    ("too few cores", {"allowed": CpuSet.parse("0,16")}, gpus(0, 0), Settings(), ["impossible", "impossible"]),
    ("a core of each node in reserve", {}, gpus(0, 0), Settings(smt="one", reserve=1), ["1-3,5-7", "9-11,13-15"]),
]  # fmt: skip
EXPLICIT = [
    ("a group each", {}, gpus(0, None), Settings(cpus=(CpuSet([1, 9]), CpuSet([2]))), ["1,9", "2"]),
    ("as written, whatever the options", {}, gpus(0), Settings(cpus=(CpuSet.parse("0-1,16"),), smt="one", reserve=2),
     ["0-1,16"]),
    ("an error for the worker it concerns", {"allowed": CpuSet([1, 2])}, gpus(0, 0),
     Settings(cpus=(CpuSet([1]), CpuSet([2, 3]))), ["1", "impossible"]),
]  # fmt: skip

ROWS = [
    pytest.param(policy, *row[1:], id=f"{policy}: {row[0]}")
    for policy, rows in {
        "node": NODE, "socket": SOCKET, "exclusive": EXCLUSIVE, "interleaved": INTERLEAVED,
        "core-complex": CORE_COMPLEX, "single-core": SINGLE_CORE, "even": EVEN, "explicit": EXPLICIT,
    }.items()
    for row in rows
]  # fmt: skip


@pytest.mark.parametrize(("policy", "limits", "everyone", "settings", "expected"), ROWS)
def test_each_gpu_gets(
    policy: str, limits: dict[str, CpuSet], everyone: Sequence[Gpu], settings: Settings, expected: list[str]
) -> None:
    """On four nodes of four cores with two threads, each GPU's worker gets what the row states."""
    assert all_placed(policy, host(FOUR_NODES, **limits), everyone, settings) == expected


# ---------------------------------------------------------------- memory, ranks, messages


@pytest.mark.parametrize(
    ("policy", "memory"),
    [
        ("node", MemoryPolicy(MemoryMode.PREFERRED, NodeSet([1]))),
        ("socket", MemoryPolicy(MemoryMode.PREFERRED_MANY, NodeSet([0, 1]))),
        ("exclusive", MemoryPolicy(MemoryMode.PREFERRED, NodeSet([1]))),
        ("even", MemoryPolicy(MemoryMode.PREFERRED_MANY, NodeSet([0, 1, 2, 3]))),
        ("explicit", MemoryPolicy(MemoryMode.PREFERRED_MANY, NodeSet([0, 2]))),
    ],
)
def test_memory_follows_the_chosen_cpus(policy: str, memory: MemoryPolicy) -> None:
    """The nodes whose CPUs were chosen; several nodes are preferred-many, of which one is the next step down."""
    settings = Settings(cpus=(CpuSet([0, 8]),))
    placement = POLICIES.get(policy).place(Observation(host(FOUR_NODES), worker(gpus(1), 0), settings))
    assert placement.memory == memory
    weaker = placement.weaker()
    assert len(memory.nodes) == 1 or (
        weaker is not None and weaker.memory == MemoryPolicy(MemoryMode.PREFERRED, NodeSet([memory.nodes.first()]))
    )


@pytest.mark.parametrize("policy", ["node", "exclusive", "core-complex"])
def test_a_node_without_memory_still_gives_cpus(policy: str) -> None:
    """The mask is set, memory is left to the kernel's first touch."""
    on = host(FOUR_NODES, memoryless=[1])
    placement = POLICIES.get(policy).place(Observation(on, worker(gpus(1), 0), Settings(memory=MemoryMode.BIND)))
    assert placement.cpus is not None
    assert placement.memory is None


@pytest.mark.parametrize(
    ("mode", "rank", "size", "expected"),
    [
        (LaunchMode.TORCHRUN, 3, 4, "12-15,28-31"),
        (LaunchMode.SLURM, 1, None, "8-15,24-31"),
        (LaunchMode.SLURM, 2, None, "impossible"),
        (LaunchMode.MPI, 4, 4, "impossible"),
        (LaunchMode.SPAWN, 1, 2, "0-7,16-23"),
        (LaunchMode.INLINE, None, None, "0-7,16-23"),
    ],
)
def test_even_goes_by_the_launchers_rank(mode: LaunchMode, rank: int | None, size: int | None, expected: str) -> None:
    """Its size too, else the number of GPUs; a spawned worker carries its parent's rank, which states nothing of it."""
    launch = attrs.evolve(worker(gpus(2, 2), 0, rank=rank, size=size), mode=mode)
    assert placed("even", host(FOUR_NODES), launch) == expected


def test_even_without_rank_and_gpu_is_no_preference() -> None:
    """Nothing shows such a worker from the others."""
    assert placed("even", host(FOUR_NODES), Launch(LaunchMode.INLINE)) == "nothing"


def test_even_keeps_nodes_together_where_they_alternate() -> None:
    """Even CPUs on node 0, odd ones on node 1: a half of the machine is a node, not half of each."""
    alternating = [Core((c,), node=c % 2, l3=c % 2, package=c % 2) for c in range(8)]
    assert all_placed("even", host(alternating), gpus(0, 1)) == ["0,2,4,6", "1,3,5,7"]


@pytest.mark.parametrize(
    ("policy", "settings", "limits", "printed"),
    [
        ("node", Settings(), {"allowed": CpuSet.parse("8-9")}, r"no CPU of node 0 \(0-3,16-19\) is allowed here"),
        ("node", Settings(reserve=4), {}, r"AFFINITY_RESERVE=4 leaves no core of node 0 \(CPUs 0-3,16-19"),
        ("exclusive", Settings(), {"allowed": CpuSet.parse("0,16")},
         r"usable physical cores of node 0: 1 \(CPUs 0,16\) for 2 workers"),
        ("single-core", Settings(reserve=3), {}, r"node 0: 1 .* for 2 workers.* \(AFFINITY_RESERVE=3\)"),
        ("even", Settings(), {"allowed": CpuSet([5])}, r"cores of node 0-3: 1 \(CPUs 5\) for 2 workers"),
        ("explicit", Settings(cpus=(CpuSet([0, 99]), CpuSet([1]))), {"offline": [3]},
         r"AFFINITY_CPUS gives CPUs 0,99 to this worker, of which 99 are not allowed .*not online: 99"),
    ],
)  # fmt: skip
def test_an_impossible_placement_states_the_numbers(
    policy: str, settings: Settings, limits: dict[str, CpuSet], printed: str
) -> None:
    """What was found, what was expected."""
    with pytest.raises(PlacementError, match=printed):
        POLICIES.get(policy).place(Observation(host(FOUR_NODES, **limits), worker(gpus(0, 0), 0), settings))


@pytest.mark.parametrize("groups", [(), (CpuSet([0]),), (CpuSet([0]), CpuSet([1]), CpuSet([2]))])
def test_explicit_groups_must_match_the_gpus(groups: tuple[CpuSet, ...]) -> None:
    """One group a GPU: anything else is the operator's to correct, whichever worker sees it."""
    with pytest.raises(SettingsError, match=f"AFFINITY_CPUS has {len(groups)} groups, but the machine has 2 GPUs"):
        POLICIES.get("explicit").place(Observation(host(FOUR_NODES), worker(gpus(0, 0), 0), Settings(cpus=groups)))


def test_the_reason_names_the_share_and_the_options() -> None:
    """It has the share, its node, and the options that reduce it."""
    settings = Settings(smt="one", reserve=1)
    placement = POLICIES.get("exclusive").place(Observation(host(FOUR_NODES), worker(gpus(0, 1, 1), 2), settings))
    assert placement.reason == (
        "a contiguous share of the cores of node 1 (second of 2 GPUs on the node)"
        " (AFFINITY_RESERVE=1, AFFINITY_SMT=one)"
    )


@pytest.mark.parametrize(
    ("nodes", "index", "expected"),
    [
        ((0, 1, 1), 0, "the only GPU on the node"),
        ((0, 1, 1), 1, "first of 2 GPUs on the node"),
        ((0,) * 9, 8, "number 9 of 9 GPUs on the node"),
    ],
)
def test_the_reason_has_the_position_of_the_gpu_on_its_node(nodes: tuple[int, ...], index: int, expected: str) -> None:
    """In words that cannot be taken for an ordinal from 0."""
    launch = worker(gpus(*nodes), index)
    assert f"({expected})" in POLICIES.get("core-complex").place(Observation(host(FOUR_NODES), launch)).reason


# ---------------------------------------------------------------- the DGX machines of NVIDIA's gpu_affinity

#: Its published expectations (tests/test_dgx.py of github.com/NVIDIA/gpu_affinity): physical cores of each GPU.
DGX_1 = (regular(2, 1, 20, threads=2), gpus(0, 0, 0, 0, 1, 1, 1, 1))
DGX_A100 = (regular(2, 4, 16, threads=2), gpus(3, 3, 1, 1, 7, 7, 5, 5))


@pytest.mark.parametrize(
    ("machine", "policy", "scope", "expected"),
    [
        (DGX_1, "node", "node", ["0-19"] * 4 + ["20-39"] * 4),
        (DGX_1, "exclusive", "socket", ["0-4", "5-9", "10-14", "15-19", "20-24", "25-29", "30-34", "35-39"]),
        (DGX_1, "interleaved", "node", ["0,4,8,12,16", "1,5,9,13,17", "2,6,10,14,18", "3,7,11,15,19",
                                        "20,24,28,32,36", "21,25,29,33,37", "22,26,30,34,38", "23,27,31,35,39"]),
        (DGX_1, "single-core", "node", ["0", "1", "2", "3", "20", "21", "22", "23"]),
        (DGX_A100, "node", "node", ["48-63", "48-63", "16-31", "16-31", "112-127", "112-127", "80-95", "80-95"]),
        (DGX_A100, "socket", "node", ["0-63"] * 4 + ["64-127"] * 4),
        (DGX_A100, "exclusive", "node", ["48-55", "56-63", "16-23", "24-31", "112-119", "120-127", "80-87", "88-95"]),
        (DGX_A100, "exclusive", "socket", ["32-39,48-55", "40-47,56-63", "0-7,16-23", "8-15,24-31",
                                           "96-103,112-119", "104-111,120-127", "64-71,80-87", "72-79,88-95"]),
        (DGX_A100, "interleaved", "socket", [str(CpuSet([*range(a, a + 16, 2), *range(b, b + 16, 2)])) for a, b in [
            (48, 32), (49, 33), (16, 0), (17, 1), (112, 96), (113, 97), (80, 64), (81, 65)]]),
        (DGX_A100, "single-core", "socket", ["48", "49", "16", "17", "112", "113", "80", "81"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("smt", ["one", "all"])
def test_agrees_with_nvidia_on_its_dgx_machines(
    machine: tuple[list[Core], Sequence[Gpu]], policy: str, scope: str, expected: list[str], smt: str
) -> None:
    """All GPUs of a DGX-1 and a DGX A100, with one thread of each core and with all."""
    cores, everyone = machine
    if smt == "all":
        expected = [
            str(CpuSet(i for core in CpuSet.parse(cpus) for i in (core, core + len(cores)))) for cpus in expected
        ]
    assert all_placed(policy, host(cores), everyone, Settings(scope=scope, smt=smt)) == expected


# ---------------------------------------------------------------- nodes that share their CPUs

#: One node of eight cores that the kernel shows as four (`numa=fake=4`), with a GPU on nodes 0, 2 and 2.
FAKE = host(regular(1, 1, 8), twins={1: 0, 2: 0, 3: 0})
ON_FAKE = gpus(0, 2, 2)


def memory_of(policy: str, launch: Launch, settings: Settings | None = None, on: Host = FAKE) -> str:
    placement = POLICIES.get(policy).place(Observation(on, launch, settings or Settings()))
    assert placement.memory is None or placement.memory.nodes == placement.nodes
    return str(placement.memory)


def test_a_worker_on_nodes_that_share_cpus_prefers_its_own_nodes_memory() -> None:
    """The CPUs alone name all four."""
    assert placed("node", FAKE, worker(ON_FAKE, 1)) == "0-7"
    for policy in ("node", "exclusive", "interleaved", "single-core", "core-complex", "even"):
        assert memory_of(policy, worker(ON_FAKE, 1)) == "preferred:2"
        assert memory_of(policy, worker(ON_FAKE, 0)) == "preferred:0"
    assert memory_of("node", worker(ON_FAKE, 0, 1)) == "preferred-many:0,2"
    assert memory_of("explicit", worker(ON_FAKE, 2), Settings(cpus=(CpuSet([1]),) * 3)) == "preferred:2"
    assert memory_of("socket", worker(ON_FAKE, 1)) == "preferred-many:0-3"
    assert memory_of("node", Launch(LaunchMode.INLINE, nodes=NodeSet([3]))) == "preferred:3"
    assert memory_of("node", worker(ON_FAKE, 1), on=attrs.evolve(FAKE, allowed_nodes=NodeSet([0]))) == "None"


def test_a_split_of_shared_cpus_is_among_the_gpus_of_all_nodes_that_share_them() -> None:
    """Each core goes to one GPU, whatever node its GPU is on, and counts once."""
    assert all_placed("exclusive", FAKE, ON_FAKE) == ["0-2", "3-5", "6-7"]
    assert all_placed("interleaved", FAKE, ON_FAKE) == ["0,3,6", "1,4,7", "2,5"]
    assert all_placed("single-core", FAKE, ON_FAKE) == ["0", "1", "2"]
    assert all_placed("even", FAKE, ON_FAKE) == ["0-2", "3-5", "6-7"]
    assert [placed("even", FAKE, worker(ON_FAKE, 0, rank=r, size=2)) for r in range(2)] == ["0-3", "4-7"]


def test_scope_socket_gives_a_shared_core_to_one_gpu() -> None:
    """Nodes 0 and 4 share CPUs, and so do 1 and 5; a GPU on 0 and on 5 leaves no node of the package without one."""
    on = host(regular(1, 2, 4), twins={4: 0, 5: 1})
    assert all_placed("exclusive", on, gpus(0, 5), Settings(scope="socket")) == ["0-3", "4-7"]
    assert all_placed("exclusive", on, gpus(4), Settings(scope="socket")) == ["0-7"]


def test_what_is_missing_of_a_shared_node_is_that_nodes_memory_alone() -> None:
    """The note names node 2, not all nodes with its CPUs."""
    on = attrs.evolve(FAKE, allowed_nodes=NodeSet([0]))
    observation = Observation(on, worker(ON_FAKE, 1))
    placement = POLICIES.get("node").place(observation)
    assert "memory of node 2 is not allowed here (allowed: 0)" in missing_memory_reason(placement, observation)


# ---------------------------------------------------------------- a task with a mask of its own

#: Two packages of one node of 16 cores with two threads, and four GPUs on each.
BATCH = regular(2, 1, 16, threads=2)
EIGHT = gpus(0, 0, 0, 0, 1, 1, 1, 1)
SPLITS = ("exclusive", "interleaved", "even")


def task(allowed: str, *mine: int, rank: int | None = 0, size: int | None = 8, **more: Any) -> tuple[Host, Launch]:
    """A worker with these CPUs and GPUs, one of `size` on the machine, of a launcher that binds its workers."""
    launch = worker(EIGHT, *mine, rank=rank, size=size)
    named = {"mode": LaunchMode.SLURM, "launcher": "slurm", "binds_workers": True, **more}
    return host(BATCH, allowed=CpuSet.parse(allowed)), attrs.evolve(launch, **named)


@pytest.mark.parametrize("method", ["", "exec"], ids=["running", "affinity run"])
@pytest.mark.parametrize("size", [8, None], ids=["8 tasks", "number unknown"])
@pytest.mark.parametrize("policy", SPLITS)
def test_a_task_with_a_mask_of_its_own_gets_it_whole(policy: str, size: int | None, method: str) -> None:
    """As `srun --cpus-per-task=8` and `mpirun --map-by ppr:4:package:pe=4` give it: no share of a share."""
    shares = [f"{4 * i}-{4 * i + 3},{32 + 4 * i}-{35 + 4 * i}" for i in range(8)]
    for i, share in enumerate(shares):
        on, launch = task(share, i, rank=i, size=size, start_method=method)
        assert placed(policy, on, launch) == share
        reason = POLICIES.get(policy).place(Observation(on, launch)).reason
        assert "launcher slurm gave this worker 8 of 64 CPUs" in reason
        assert "for each of 8 workers" in reason


@pytest.mark.parametrize("policy", ["core-complex", "single-core"])
def test_a_task_with_a_mask_of_its_own_takes_the_first_part_of_it(policy: str) -> None:
    """No other worker takes any: the fourth GPU's task does not leave three for others."""
    on, launch = task("12-15,44-47", 3, rank=3)
    assert placed(policy, on, launch) == {"core-complex": "12-15,44-47", "single-core": "12,44"}[policy]


def test_a_task_with_several_gpus_divides_its_mask_among_its_own() -> None:
    """Four tasks of two GPUs: all of the mask, from a number of tasks that is known or follows from the GPUs."""
    for size in (4, None):
        on, launch = task("0-7,32-39", 0, 1, size=size)
        assert placed("exclusive", on, launch) == "0-7,32-39"
        assert placed("single-core", on, launch) == "0-1,32-33"


def test_a_task_whose_mask_is_a_whole_node_gets_it_whole_if_there_is_one_for_each_task() -> None:
    """Two tasks, each bound to a package."""
    on, launch = task("16-31,48-63", 4, size=2)
    assert placed("exclusive", on, launch) == "16-31,48-63"


@pytest.mark.parametrize(
    ("allowed", "why"),
    [
        (task("16-31,48-63", 4), "mpirun binds eight ranks to two nodes, four share each"),
        (task("0-63", 4), "srun --cpu-bind=none on the whole machine"),
        (task("16-19,48-51", 4, binds_workers=False), "a container's cpuset, and a launcher that binds no worker"),
        (task("16-19,48-51", 4, rank=None), "no local rank: no worker of the launcher"),
        (task("16-19,48-51", 4, start_method="spawn"), "a worker of this one, which is one of several"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mask_that_workers_share_is_divided_among_them(allowed: tuple[Host, Launch], why: str) -> None:
    """Each of the node's four GPUs gets a quarter."""
    on, launch = allowed
    usable = len(on.allowed_cpus & on.topology.by_id[1].cpus)
    assert len(CpuSet.parse(placed("exclusive", on, launch))) == usable // 4, why
    assert "its own" not in POLICIES.get("exclusive").place(Observation(on, launch)).reason


def test_a_single_task_on_the_whole_machine_leaves_the_other_gpus_their_share() -> None:
    """Its mask is no share: that uses the other GPUs is unknown."""
    on, launch = task("0-63", 0, size=1)
    assert placed("exclusive", on, launch) == "0-3,32-35"
    on, launch = task("0-7,32-39", 0, size=1)
    assert placed("exclusive", on, launch) == "0-7,32-39"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLURM_STEP_ID": "0", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "8"}, "8-15"),
        ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, "8-15"),
        ({"PMI_RANK": "1", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "8"}, "8-15"),
        ({"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}, "10-11"),
        ({}, "8-9"),
    ],
    ids=["slurm", "openmpi", "hydra", "torchrun", "none"],
)
def test_the_launcher_that_is_detected_decides_whose_mask_it_is(environ: dict[str, str], expected: str) -> None:
    """The second GPU's worker, with eight of 64 CPUs: its own, or a container's, of which it gets a quarter."""
    fake = FakeHost("pack:2 numa:1 core:16 pu:2 gpu:4", mask=CpuSet.parse("8-15"), environ=environ)
    gpu = None if environ else 0
    planned = affinity.plan(gpu=gpu, host=fake.host, settings=Settings(policy="exclusive"))
    assert planned.placement is not None
    assert str(planned.placement.cpus) == expected
