"""What every policy promises, on machines that Hypothesis makes up: uneven, sparse, half offline, half allowed."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import example, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from placing import POLICIES, Core, check_promises, cores_of, gpus, host, placed, worker

from affinity import CpuSet, Host, NodeSet, Settings
from affinity.devices import Gpu
from affinity.kernel import MemoryMode

#: For each property and policy; the number keeps this file at some seconds.
EXAMPLES = 50

#: What AFFINITY_MEMORY may ask for.
MEMORY = (MemoryMode.PREFERRED, MemoryMode.BIND, MemoryMode.INTERLEAVE, MemoryMode.LOCAL, None)


@attrs.frozen
class Situation:
    """A machine, its GPUs and the operator's options."""

    on: Host
    everyone: tuple[Gpu, ...]
    settings: Settings


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Packages of uneven nodes of uneven cores; CPU numbers in any order; any part offline, allowed or memory-less.

    Nodes may share their CPUs, as under `numa=fake`.
    """
    ids = draw(st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True))
    packages = [draw(st.integers(0, 2)) for _ in ids]
    shapes = [(node, package) for node, package in zip(ids, packages, strict=True)
              for _ in range(draw(st.integers(0, 6)))] or [(ids[0], 0)]  # fmt: skip
    threads = [draw(st.sampled_from([1, 2, 2, 4])) for _ in shapes]
    numbers = iter(draw(st.permutations(range(sum(threads) + 3))))
    cores = [
        Core(tuple(next(numbers) for _ in range(count)), node, l3=draw(st.integers(0, 2)) + 3 * node, package=package)
        for (node, package), count in zip(shapes, threads, strict=True)
    ]
    every = sorted(i for core in cores for i in core.cpus)
    offline = draw(st.one_of(st.just([]), st.lists(st.sampled_from(every), max_size=len(every) - 1, unique=True)))
    twins = draw(st.one_of(st.just({}), st.dictionaries(st.integers(13, 15), st.sampled_from(ids), max_size=2)))
    on = host(
        cores,
        nodes=ids,
        twins=twins,
        memoryless=draw(st.sets(st.sampled_from(ids), max_size=2)),
        offline=offline,
        allowed=draw(st.one_of(st.none(), st.sets(st.sampled_from(every)).map(CpuSet))),
        allowed_nodes=draw(st.one_of(st.none(), st.sets(st.sampled_from([*ids, *twins])).map(NodeSet))),
    )
    everyone = gpus(*draw(st.lists(st.one_of(st.none(), st.sampled_from([*ids, *twins])), min_size=1, max_size=6)))
    options = Settings(
        smt=draw(st.sampled_from(["all", "one"])),
        scope=draw(st.sampled_from(["node", "socket"])),
        reserve=draw(st.sampled_from([0, 0, 1, 2])),
        memory=draw(st.sampled_from(MEMORY)),
    )
    return Situation(on, everyone, options)


def sharing_nodes_with(*l3: int) -> Situation:
    """A GPU on each of two nodes that share their CPUs, one in each of these L3 domains."""
    cores = [Core((i,), 0, l3=domain, package=0) for i, domain in enumerate(l3)]
    return Situation(host(cores, twins={13: 0}), gpus(0, 13), Settings())


@pytest.mark.parametrize("policy", POLICIES.names())
@limits(max_examples=EXAMPLES, deadline=None)
@example(situation=sharing_nodes_with(0))
@example(situation=sharing_nodes_with(0, 1))
@given(situation=situations())
def test_no_machine_breaks_a_promise(policy: str, situation: Situation) -> None:
    """Allowed CPUs only, never none, whole cores, options obeyed, disjoint where promised, the same on every call."""
    check_promises(policy, situation.on, situation.everyone, situation.settings)


@pytest.mark.parametrize("policy", ["exclusive", "interleaved"])
@limits(max_examples=EXAMPLES, deadline=None)
@given(situation=situations())
def test_a_split_gives_out_everything_fairly(policy: str, situation: Situation) -> None:
    """The shares of a node's GPUs are all of its usable cores, differ by one core at most, the larger ones first."""
    on, everyone = situation.on, situation.everyone
    settings = attrs.evolve(situation.settings, scope="node")
    for node in {gpu.node for gpu in everyone if gpu.node is not None}:
        there = [i for i, gpu in enumerate(everyone) if gpu.node in on.topology.sharing_nodes(node)]
        usable = [c & on.allowed_cpus for c in cores_of(on, node)[settings.reserve :] if c & on.allowed_cpus]
        found = [placed(policy, on, worker(everyone, i), settings) for i in there]
        if len(usable) < len(there):
            assert set(found) == {"impossible"}
            continue
        shares = [CpuSet.parse(text) for text in found]
        counts = [sum(not share.isdisjoint(core) for core in usable) for share in shares]
        assert sum(counts) == len(usable)
        assert counts == sorted(counts, reverse=True)
        assert counts[0] - counts[-1] <= 1


@pytest.mark.parametrize("policy", ["exclusive", "interleaved"])
@limits(max_examples=EXAMPLES, deadline=None)
@given(situation=situations())
def test_scope_socket_only_adds_and_leaves_nothing_of_the_package(policy: str, situation: Situation) -> None:
    """Each GPU keeps its own node's share; together the GPUs of a package have all of its usable CPUs."""
    on, everyone, settings = situation.on, situation.everyone, situation.settings
    with_gpu = NodeSet(n for gpu in everyone if gpu.node is not None for n in on.topology.sharing_nodes(gpu.node))
    of_package: dict[int, list[str]] = {}
    for i, gpu in enumerate(everyone):
        before, after = (
            placed(policy, on, worker(everyone, i), attrs.evolve(settings, scope=scope)) for scope in ("node", "socket")
        )
        if gpu.node is not None and on.topology.by_id[gpu.node].cpus:
            of_package.setdefault(package_of(on, gpu.node), []).append(after)
        if before in ("impossible", "nothing"):
            assert after == before
        else:
            assert CpuSet.parse(before) <= CpuSet.parse(after)
            assert on.topology.nodes_of(CpuSet.parse(after) - CpuSet.parse(before)).isdisjoint(with_gpu)
    for package, found in of_package.items():
        if "impossible" not in found:
            nodes = [n.id for n in on.topology.nodes if n.cpus and package_of(on, n.id) == package]
            usable = [c & on.allowed_cpus for n in nodes for c in cores_of(on, n)[settings.reserve :]]
            everything = CpuSet(i for c in usable if c for i in (c if settings.smt == "all" else [c.first()]))
            assert CpuSet(i for text in found for i in CpuSet.parse(text)) == everything


def package_of(on: Host, node: int) -> int:
    """The package of a node with CPUs; on these machines no node spans two."""
    return on.topology.cpus[on.topology.by_id[node].cpus.first()].package


@limits(max_examples=EXAMPLES, deadline=None)
@given(situation=situations(), size=st.integers(1, 5))
def test_even_parts_are_the_machine(situation: Situation, size: int) -> None:
    """All local ranks together have every usable core once, whatever GPU each of them has."""
    on, settings = situation.on, situation.settings
    found = [placed("even", on, worker(situation.everyone, 0, rank=r, size=size), settings) for r in range(size)]
    usable = [c & on.allowed_cpus for n in on.topology.by_id for c in cores_of(on, n)[settings.reserve :]]
    usable = list(dict.fromkeys(core for core in usable if core))  # nodes that share CPUs have the same cores
    if len(usable) < size:
        assert set(found) == {"impossible"}
    else:
        shares = [CpuSet.parse(text) for text in found]
        assert [sum(not share.isdisjoint(core) for share in shares) for core in usable] == [1] * len(usable)


@pytest.mark.parametrize("policy", [p for p in POLICIES.names() if p != "explicit"])
@limits(max_examples=EXAMPLES, deadline=None)
@given(situation=situations(), data=st.data())
def test_an_answer_depends_on_the_machine_not_on_which_asks(
    policy: str, situation: Situation, data: st.DataObject
) -> None:
    """What the driver reported this worker of its GPUs, and in which order it names them, changes nothing."""
    on, everyone = situation.on, situation.everyone
    mine = data.draw(st.lists(st.sampled_from(range(len(everyone))), min_size=1, max_size=3, unique=True))
    reported = tuple(attrs.evolve(everyone[i], model="as the driver states", uuid=f"GPU-{i}") for i in reversed(mine))
    launch = worker(everyone, *mine)
    other = attrs.evolve(launch, gpus=reported)
    assert placed(policy, on, launch, situation.settings) == placed(policy, on, other, situation.settings)
