"""Strangers' input: an error of ours or an answer, never a traceback from inside, a hang, or memory without bound.

Hypothesis makes the input up; `EXAMPLES` keeps the file at some seconds.
"""

from __future__ import annotations

import itertools
import json
import os
import string
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affinity import AffinityError, CpuSet, Host, NodeSet, Settings
from affinity.api import Plan, plan, plan_each
from affinity.handoff import Handoff
from affinity.launchers import Launch, LaunchMode
from affinity.render import serialize
from affinity.settings import ALIASES, VARIABLES
from affinity.testing import machines, trees
from affinity.topology import synthetic

EXAMPLES = 120

limits = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


def answer(ask: Callable[[], object]) -> object:
    """What `ask` gives, None where it raises an error of ours; anything else it raises fails the test."""
    try:
        return ask()
    except AffinityError as error:
        assert str(error)
        return None


def as_json(planned: Plan | None) -> None:
    """A plan can be printed, and read again."""
    if planned is not None:
        assert json.loads(json.dumps(serialize.plan(planned), allow_nan=False))["version"] == serialize.VERSION


#: Numbers at the edges: of ids, of machine words, of Python's own limit on digits.
numbers = st.sampled_from(
    ["0", "1", "7", "-1", "--1", "65535", "65536", "99999999999", "9" * 30, "9" * 5000, "٣", "1e3"]
)
#: Pieces of the formats in use, so that inputs are nearly right.
pieces = st.one_of(
    numbers,
    st.sampled_from(
        [*list("-,|.:;<> \n\x00\t/()=x"), "0-3", "3-0", "0-999999999999", "auto", "none", "ff,00000000", "0x"]
    ),
    st.text(alphabet=string.printable, max_size=6),
    st.text(max_size=4),
)
texts = st.one_of(st.lists(pieces, max_size=8).map("".join), st.text(max_size=40))


@limits
@given(text=texts)
def test_list_and_mask_formats(text: str) -> None:
    """And the record in AFFINITY_BOUND, which is None for an unrelated value."""
    for kind in (CpuSet, NodeSet):
        answer(lambda kind=kind: kind.parse(text))  # type: ignore[misc]
        answer(lambda kind=kind: kind.parse_mask(text))  # type: ignore[misc]
    found = Handoff.parse(f"cpus=0-3;allowed=0-7;{text}")
    assert found is None or Handoff.parse(str(found)) == found
    assert Handoff.parse(text) is None or "cpus=" in text


#: What a variable accepts, taken from its own description, besides anything at all.
words = st.sampled_from(sorted({w.strip(" `") for v in (*VARIABLES, *ALIASES) for w in v.accepted.split(",")}))
names = st.sampled_from([*(v.name for v in (*VARIABLES, *ALIASES)), "AFFINITY_BOUND", "AFFINITY_NODE", "AFFINITY_"])
policies = st.sampled_from(["node", "socket", "exclusive", "even", "explicit", "interleaved", "core-complex"])


@limits
@given(environ=st.dictionaries(names, st.one_of(words, policies, texts), max_size=5))
def test_every_setting(environ: dict[str, str]) -> None:
    """From the variable to the plan and its JSON, on a machine with two nodes and four GPUs."""
    host = Host.synthetic("pack:2 numa:1 core:4 pu:2 gpu:2")

    def ask() -> Plan:
        return plan(gpu="0", settings=Settings.from_environ(environ), host=host)

    as_json(answer(ask))  # type: ignore[arg-type]


levels = st.sampled_from(["pack", "numa", "l3", "core", "pu", "gpu", "numa(memory=0)", "socket", ""])
lines = st.one_of(
    st.lists(st.tuples(levels, numbers | st.integers(0, 70000).map(str)).map(":".join), max_size=6).map(" ".join),
    st.lists(
        st.sampled_from(["pack:2", "numa:2", "numa:300(memory=4GiB)", "core:4", "core:65536", "pu:2", "gpu:1",
                         "gpu:900", "numa:2(memory=999999999TiB)", "gpu:1(vendor=amd)", "gpu:1(vendor=x)"]),
        max_size=5, unique=True,
    ).map(" ".join),
    texts,
)  # fmt: skip


@limits
@given(line=lines)
def test_synthetic_machines(line: str) -> None:
    """A machine, of bounded size, or an error that quotes the line."""
    machine = answer(lambda: synthetic.load(line))
    if machine is not None:
        assert len(machine.online) <= 1 << 16  # type: ignore[attr-defined]
        assert sum(1 for _ in machine.pci_devices) <= 1 << 16  # type: ignore[attr-defined]


selectors = st.lists(
    st.sampled_from([*"*!:;,.012", "level_zero", "level_zero:", "opencl:gpu", "gpu", "cpu", " "]), max_size=8
).map("".join)


@limits
@given(reference=st.one_of(texts, st.integers(), st.lists(st.one_of(texts, st.integers()), max_size=3)),
       visible=st.one_of(st.none(), texts, selectors))  # fmt: skip
def test_references_to_gpus(reference: str | int | list[str | int], visible: str | None) -> None:
    """In each runtime's variable and as an argument; the machine is a simulated one, which has an environment."""
    from affinity.testing import FakeHost

    names = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR")
    environ = {} if visible is None else dict.fromkeys(names, visible)
    for vendor in ("nvidia", "amd", "intel"):
        fake = FakeHost(f"pack:2 numa:1 core:2 gpu:2(vendor={vendor})", environ=environ)
        as_json(answer(lambda fake=fake: plan(gpu=reference, host=fake.host)))  # type: ignore[misc,arg-type]


# ---------------------------------------------------------------- captured machines


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small machine's files (two nodes, 32 CPUs, GPUs behind bridges), and a place to put some of them aside."""
    root = tmp_path_factory.mktemp("machine")
    machine = machines.get("vm-known-bridge")
    nodes = tuple(attrs.evolve(n, initiators=NodeSet([1 - n.id])) for n in machine.nodes)
    gpus = tuple(attrs.evolve(gpu, memory_node=i) for i, gpu in enumerate(machine.gpus))
    trees.write(attrs.evolve(machine, nodes=nodes, gpus=gpus), root, status=False)
    for name, text in (
        ("proc/self/cpuset", "/job"),
        ("proc/mounts", "cgroup /cs cgroup rw,cpuset 0 0"),
        ("cs/job/cpuset.cpus", "0-31"),
        ("cs/job/cpuset.mems", "0-1"),
        ("sys/devices/system/cpu/cpu1/online", "1"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root, tmp_path_factory.mktemp("parked")


def files(root: Path) -> list[Path]:
    """Every file, directory and link in it; links are not followed."""
    return sorted(Path(top, name).relative_to(root) for top, *names in os.walk(root) for name in (*names[0], *names[1]))


#: What a file may turn into, or hold.
ODD = (
    *("removed", "directory", "loop", "pipe", "/dev/zero", "/dev/full"),
    *(b"", b"\0", b"-", b"-9", b"--1", b"0x", b"\xc2\xb2", b"\xff" * 5000, b"9" * 5000, b"9" * 5000 + b" 1"),
    *(b"0-65535", b"0," * 5000, b"ffffffff," * 3000 + b"0", b"0-1\n0-1", b"1 2 3 4 5 6 7 8"),
    *(b"MemTotal: -1 kB", b"MemTotal: " + b"9" * 5000),
)
damage = st.one_of(
    st.sampled_from(ODD), texts.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=30)
)


@contextmanager
def damaged(root: Path, parked: Path, how: dict[Path, str | bytes]) -> Iterator[None]:
    """The tree with each of these damages in it, for the time of the block."""
    with ExitStack() as repairs:
        for number, (path, what) in enumerate(how.items()):
            place, aside = root / path, parked / str(number)
            if not os.path.lexists(place):
                continue  # an earlier damage took its directory away
            place.rename(aside)
            repairs.callback(aside.rename, place)
            put(place, what)
            repairs.callback(remove, place)
        yield


def put(place: Path, what: str | bytes) -> None:
    """The damage itself."""
    match what:
        case bytes():
            place.write_bytes(what)
        case "directory":
            place.mkdir()
        case "loop":
            place.symlink_to(place.name)
        case "pipe":
            os.mkfifo(place)
        case str() if what.startswith("/"):
            place.symlink_to(what)


def remove(place: Path) -> None:
    """What `put` has put there, if anything."""
    if place.is_dir() and not place.is_symlink():
        place.rmdir()
    else:
        place.unlink(missing_ok=True)


def kinds(root: Path) -> dict[str, list[Path]]:
    """The machine's files by name: what is tried on one of a name is nearly tried on all."""
    found: dict[str, list[Path]] = {}
    for path in files(root):
        found.setdefault(path.name, []).append(path)
    return found


def test_each_kind_of_file_in_each_odd_state(tree: tuple[Path, Path]) -> None:
    """The first of each name: everything that can be read of the machine is asked for."""
    root, parked = tree
    errors = 0
    for paths, how in itertools.product(kinds(root).values(), ODD):
        with damaged(root, parked, {paths[0]: how}):
            shown = answer(lambda: serialize.machine(Host.from_root(str(root)), Launch(LaunchMode.INLINE)))
            answer(lambda: Host.from_root(str(root)).topology.pci_devices)
            errors += shown is None
    assert errors > 100


@pytest.mark.parametrize("name", ["²", "-1", "1x", "٣", "65536", "9" * 200])
def test_directories_with_odd_numbers(tree: tuple[Path, Path], name: str) -> None:
    """Beside the right ones, of nodes and of CPUs."""
    root, _ = tree
    odd = [root / "sys/devices/system/node" / f"node{name}", root / "sys/devices/system/cpu" / f"cpu{name}"]
    for place in odd:
        place.mkdir()
    try:
        answer(lambda: serialize.machine(Host.from_root(str(root)), Launch(LaunchMode.INLINE)))
    finally:
        for place in odd:
            place.rmdir()


@limits
@given(data=st.data())
def test_captured_machines(tree: tuple[Path, Path], data: st.DataObject) -> None:
    """Some files damaged in any way: read, planned for by every policy, shown; or an error that names the file."""
    root, parked = tree
    by_name = kinds(root)
    chosen = st.sampled_from(sorted(by_name)).flatmap(lambda name: st.sampled_from(by_name[name]))
    how = data.draw(st.dictionaries(chosen, damage, min_size=1, max_size=4))
    policy = data.draw(policies)
    scope = data.draw(st.sampled_from(["node", "socket"]))
    options = Settings(policy=policy, scope=scope, cpus=(CpuSet([0]),) if policy == "explicit" else ())
    with damaged(root, parked, how):
        host = answer(lambda: Host.from_root(str(root)))
        if not isinstance(host, Host):
            return
        for planned in answer(lambda: plan_each(gpu="all", host=host, settings=options)) or ():  # type: ignore[attr-defined]
            as_json(planned)
        as_json(answer(lambda: plan(node=1, host=host, settings=options)))  # type: ignore[arg-type]
        shown = answer(lambda: serialize.machine(host, Launch(LaunchMode.INLINE)))
        assert shown is None or json.dumps(shown)


def test_nothing_hostile_costs_memory_or_time(python) -> None:  # type: ignore[no-untyped-def]
    """A process that may take 600 MiB of addresses and 10 s of processor answers all of these."""
    text = """
import resource, sys, affinity, affinity.api
from affinity.topology import synthetic
from affinity.testing import FakeHost
resource.setrlimit(resource.RLIMIT_AS, (600 << 20,) * 2); resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
nines = "9" * 100_000
asked = 0
many = ("0," * 100_000 + "70000", "f" * 100_000, "ffffffff," * 50_000 + "0")
for text in ("0-999999999999", "0-65536", nines, f"0-{nines}", *many):
    for ask in (affinity.CpuSet.parse, affinity.NodeSet.parse_mask,
                synthetic.load, lambda t: synthetic.load(f"core:{t}"),
                lambda t: affinity.Settings.from_environ({"AFFINITY_CPUS": t}),
                lambda t: affinity.Settings.from_environ({"AFFINITY_NODES": t}),
                lambda t: affinity.plan(gpu=t, host=FakeHost("core:4 gpu:1").host)):
        try: ask(text)
        except affinity.AffinityError: asked += 1
for line in ("pack:999999 numa:999999 core:999999 pu:999999", "numa:65536", "pack:65536", "numa:1000 gpu:1000"):
    try: synthetic.load(line)
    except affinity.AffinityError: asked += 1
print(asked)
"""
    assert int(python(text).stdout) >= 40


def test_the_largest_machine_there_may_be_is_planned_for_in_seconds() -> None:
    """65,536 CPUs on 1,024 nodes: the bound is far above Linux's 8,192, and still no wait."""
    line = "pack:64 numa:16 core:32 pu:2 gpu:1"
    planned = plan(gpu="phys:1000", host=Host.synthetic(line))
    assert planned.placement is not None
    assert str(planned.placement.cpus) == "64000-64063"


def test_a_variable_that_is_no_text_is_an_error_of_one_line() -> None:
    """Bytes that are no UTF-8, as an environment may hold them, through the command."""
    import subprocess

    environ = {**os.environb, b"AFFINITY_STRATEGY": b"\xff\xfe", b"PYTHONUTF8": b"1"}
    command = [str(Path(sys.executable).with_name("affinity")), "plan"]
    done = subprocess.run(command, capture_output=True, env=environ, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"affinity: AFFINITY_STRATEGY=")
    assert done.stderr.count(b"\n") == 1
