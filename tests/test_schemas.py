"""The JSON Schemas of the documentation describe what each command prints, in every state that can be had here."""

from __future__ import annotations

import errno
import json
import re
import runpy
from typing import Any

import attrs
import pytest
import schemas
from commands import affinity, called
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from affinity import BindError, CpuSet, Settings, UsageError
from affinity.api import plan_each
from affinity.cli import attach as attach_command
from affinity.cli import demo as demo_command
from affinity.cli import ray as ray_command
from affinity.devices import Evidence, GpuUse
from affinity.integrations.ray.actor_audit import ActorAudit
from affinity.integrations.ray.node_survey import NodeSurvey
from affinity.kernel import MemoryMode
from affinity.observe import observe
from affinity.plugins import Plugins
from affinity.render import serialize
from affinity.report.processes import GpuProcesses
from affinity.testing import FakeHost, machines, trees

FILES = sorted(path.stem for path in schemas.FOLDER.glob("*.json"))
TWO = "pack:2 core:4 gpu:1 nic:1"


@pytest.mark.parametrize("name", FILES)
def test_each_schema_is_valid_and_closed(name: str) -> None:
    """By its draft's own schema. An object has named keys, and no others."""
    schema = json.loads((schemas.FOLDER / f"{name}.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]

    def objects(value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("type") == "object":
                yield value
            for part in value.values():
                yield from objects(part)
        elif isinstance(value, list):
            for part in value:
                yield from objects(part)

    assert [found for found in objects(schema) if "additionalProperties" not in found] == []


def test_the_files_are_current() -> None:
    """Otherwise: `python docs/reference/schemas/make.py`."""
    made = dict(runpy.run_path(str(schemas.FOLDER / "make.py"))["documents"]())
    assert {f"{name}.json" for name in FILES} == made.keys()
    assert [name for name, text in made.items() if (schemas.FOLDER / name).read_text() != text] == []


def test_the_reference_links_each_from_its_section() -> None:
    """And each section of a command has one."""
    page = (schemas.FOLDER.parent / "json.md").read_text()
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert [name for name in FILES if f"(schemas/{name}.json)" not in sections[name.replace("-", " ")]] == []
    assert {name for name in sections if name not in ("Report", "Schemas")} == {n.replace("-", " ") for n in FILES}


def printed(command: str, *arguments: str, **environ: str) -> Any:
    done = called(command, "--json", *arguments, **environ)
    assert done.returncode in (0, 1), done.stderr
    return schemas.load(command, done.stdout)


@pytest.mark.parametrize("command", ["show", "plan", "explain", "doctor", "strategies"])
@pytest.mark.parametrize("machine", [
    (), ("--synthetic", TWO), ("--synthetic", "pack:1 core:2"), ("--synthetic", "numa:4 core:2 gpu:2"),
], ids=str)  # fmt: skip
def test_a_machine(command: str, machine: tuple[str, ...]) -> None:
    """This one, and some that are described."""
    printed(command, *machine)


@pytest.mark.parametrize("name", machines.names())
def test_a_named_machine(name: str, tmp_path: Any) -> None:
    """Every command for which it is read."""
    trees.write(machines.get(name), tmp_path)
    for command in ("show", "plan", "explain", "doctor"):
        printed(command, "--root", str(tmp_path))


def test_plans_that_are_refused_or_impossible() -> None:
    """A node without a GPU, no CPU left, a plugin's malformed option, settings that are switched on."""
    printed("plan", "--synthetic", TWO, AFFINITY_POLICY="explicit", AFFINITY_CPUS="90|91")
    printed("plan", "--synthetic", TWO, AFFINITY_RESERVE="9")
    printed("explain", "--synthetic", TWO, "--node", "1", AFFINITY_MEMORY="none", AFFINITY_SMT="one")
    printed("explain", "--synthetic", TWO, "--gpu", "0,1", AFFINITY_STRATEGY="numactl,libnuma")
    printed("explain", AFFINITY_AUTO="0", RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES="1")
    printed("doctor", AFFINITY_AUTO="0")


def test_demo() -> None:
    """On this machine; and of a worker that is not bound, as its parent receives it."""
    schemas.load("demo", affinity("demo", "--json").stdout)
    with FakeHost(TWO).installed():
        answers = [demo_command.run_worker({"gpu": gpu}) for gpu in (0, 99)]
    assert ["error" in answer for answer in answers] == [False, True]
    workers = [{"worker": "GPU", "started_by": "multiprocessing", **answer} for answer in answers]
    shape = {"version": 1, "stand_ins": True, "workers": workers, "notes": []}
    schemas.check("demo", json.loads(json.dumps(shape)))


def processes(fake: FakeHost) -> Any:
    """Of workers that are bound, misplaced, ended, pinned, unreadable, and of a PID of elsewhere."""
    reader = GpuProcesses.of(fake.host, Settings())
    first, second = reader.gpus[:2]
    bound, free, pinned = (fake.start_process(threads=2, size=1 << 22) for _ in range(3))
    pinned.set_affinity(0, CpuSet("0"))
    attached = GpuProcesses.of(fake.host, Settings())
    uses = [
        GpuUse(bound.pid, first.pci, Evidence.USES, "a driver"),
        GpuUse(free.pid, second.pci, Evidence.MAY_USE, "a file"),
        GpuUse(pinned.pid, None, Evidence.UNKNOWN, "nothing"),
        GpuUse(1 << 20, first.pci, Evidence.USES, "a driver", is_here=False),
    ]
    attach(bound.pid, fake, gpu=0)
    return attached.rows(uses, pids=(bound.pid, free.pid, pinned.pid))


def attach(pid: int, fake: FakeHost, **how: Any) -> Any:
    """What `affinity attach` has for one process: its report, or its error."""
    options = {"gpu": None, "node": None, "identity": "", "widen": False, "dry_run": False, "undo": False, **how}
    gpu, node = options.pop("gpu"), options.pop("node")
    settings = options.pop("settings", Settings())
    try:
        return attach_command._act(pid, fake.host, gpu, node, settings, quiet=True, **options)
    except (BindError, UsageError) as error:
        return {"pid": pid, "error": str(error)}


def test_processes() -> None:
    """With each of their states, also where pages and policies cannot be read."""
    for refused in ("", "resident", "get_mempolicy"):
        fake = FakeHost(TWO)
        if refused:
            fake.kernel.refuse(refused, errno.EPERM)
        shape = serialize.processes(processes(fake), ["a note"], "node")
        assert len(shape["processes"]) >= 3
        schemas.check("ps", json.loads(json.dumps(shape)))
    schemas.load("ps", affinity("ps", "--json").stdout)


def test_what_attach_makes_of_a_process() -> None:
    """A report, a refused one, a plan, an undo, an error; and what was left alone."""
    fake = FakeHost(TWO)
    other = fake.start_process(threads=3, size=1 << 22)
    rows = [attach(other.pid, fake, gpu=1, dry_run=True), attach(other.pid, fake, gpu=1)]
    rows += [attach(other.pid, fake, undo=True), attach(other.pid, fake, undo=True), attach(77, fake, gpu=1)]
    assert [sorted(row.keys() & {"undone", "error", "policy", "already"}) for row in rows] == [
        ["policy"], ["already"], ["undone"], ["error"], ["error"],
    ]  # fmt: skip
    fake.kernel.refuse("migrate_pages", errno.EPERM)
    rows += [attach(other.pid, fake, gpu=1, settings=Settings(memory=MemoryMode.BIND))]
    fake.kernel.refuse("set_affinity", errno.EPERM)
    rows += [attach(other.pid, fake, gpu=0), {"pid": 7, "left_alone": "it was bound by something else"}]
    schemas.check("attach", json.loads(json.dumps(rows)))


def test_nodes_and_actors_of_a_cluster() -> None:
    """A node that replied and one that did not; an actor in each state."""
    fake = FakeHost(TWO)
    machine = serialize.machine(fake.host, observe(Plugins(), gpu="all", settings=Settings(), host=fake.host).launch)
    plans = tuple(serialize.plan(plan) for plan in plan_each(host=fake.host, launch_mode="ray"))
    nodes = [NodeSurvey("a1", "one", machine, plans), NodeSurvey("b2", "two", None, error="it did not reply")]
    schemas.check("ray-survey", json.loads(json.dumps([ray_command._node_shape(node) for node in nodes])))

    row, *_ = (serialize.process(row) for row in processes(fake))
    other = fake.start_process()
    report = {key: value for key, value in attach(other.pid, fake, gpu=0).items() if key != "pid"}
    actor = ActorAudit("c3", "Worker", "a1", "one", 12, report, (row["gpu"],), 3, 1, {0: 4096}, 0, True, row)
    unread: dict[str, Any] = {"requested": None, "satisfied": False, "gpus": []}
    actors = [
        actor,
        attrs.evolve(actor, report=None, in_force=None, threads_outside=None, attached={"report": report}),
        attrs.evolve(actor, report=None, in_force=None, attached={"left_alone": "pinned"}),
        attrs.evolve(actor, report=None, in_force=None, attached={"error": "it ended", "exit_status": 3}),
        ActorAudit("d4", "", "", "", 0, unread, error="its record cannot be read: no JSON"),
        ActorAudit("", "", "", "", 0, None, error="Ray does not list the actors with GPUs"),
    ]
    schemas.check("ray-audit", json.loads(json.dumps([ray_command._actor_shape(actor) for actor in actors])))


@pytest.mark.parametrize("command", ["show", "plan", "explain", "doctor", "strategies"])
def test_a_key_without_a_schema_is_an_error(command: str) -> None:
    """And one that is missing, at the top and within."""
    value = printed(command, "--synthetic", TWO)
    top = value[0] if isinstance(value, list) else value
    inner = next(part for parts in top.values() if isinstance(parts, list) for part in parts if isinstance(part, dict))
    for changed in (top, inner):
        changed["more"] = 1
        with pytest.raises((ValidationError, AssertionError), match="more"):
            schemas.check(command, value)
        del changed["more"]
        key, kept = changed.popitem()
        with pytest.raises(AssertionError, match=key):
            schemas.check(command, value)
        changed[key] = kept
    schemas.check(command, value)
