"""A cluster of three real Ray nodes with different GPUs: surveyed and audited, also while a node dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from workers import EVEN, ODD, RAY, environment

import affinity
from affinity.integrations.ray import ActorAudit, audit, bound, survey

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

GPUS = (2, 1, 4)  # of the three nodes

#: The record of an actor that has ended.
RECORD: dict[str, Any] = {
    "name": "", "node": "n", "namespace": "pid:[1]", "pid": 1, "identity": "1-2-3", "left_alone": 0,
    "report": {"requested": None, "satisfied": True, "gpus": []},
}  # fmt: skip
ON_ODD = affinity.Settings(policy="explicit", cpus=(affinity.CpuSet([ODD]),), nodes=(0,))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three raylets on this machine, each with its own placeholder GPUs."""
    with environment(**RAY):
        made = Cluster(shutdown_at_exit=False)
        for count in GPUS:
            variables = {
                "AFFINITY_NODES": ",".join(["0"] * count),
                "AFFINITY_POLICY": "explicit",
                "AFFINITY_CPUS": "|".join(str(ODD if gpu % 2 else EVEN) for gpu in range(count)),
            }
            with environment(**variables):
                made.add_node(num_cpus=1, num_gpus=count, include_dashboard=False)
        try:
            ray.init(address=made.address, log_to_driver=False, logging_level="error")
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


@bound
class Scheduler:
    def __init__(self) -> None:
        self.stop = threading.Event()

    def run(self) -> None:
        """An event loop that answers no call, as an engine's does."""
        self.stop.wait(60)

    def let_a_thread_go(self) -> None:
        """What a library does that pins its own threads to all CPUs."""
        os.sched_setaffinity(0, range(os.cpu_count() or 1))

    def pin_a_thread(self) -> None:
        """What a library does that has a place of its own for a thread."""

        def stay() -> None:
            os.sched_setaffinity(0, {ODD})
            pinned.set()
            self.stop.wait(60)

        pinned = threading.Event()
        threading.Thread(target=stay, daemon=True).start()
        pinned.wait(10)

    def bind_again(self) -> None:
        """As an engine does that binds by itself: what was left alone is left alone."""
        affinity.bind()

    def bind_where_it_cannot(self) -> None:
        """More than one that is possible: nothing of it is in force."""
        affinity.bind(settings=affinity.Settings(policy="explicit", cpus=(affinity.CpuSet([8191]),), nodes=(0,)))

    def pid(self) -> int:
        return os.getpid()


class Loose:
    """Binds by itself, and not in its `__init__`."""

    def pid(self) -> int:
        return os.getpid()

    def bind_for_a_while(self) -> list[bool]:
        with affinity.restored():
            affinity.bind()
            inside = affinity.current_report() is not None
        return [inside, affinity.current_report() is None]

    def bind_in_a_thread(self) -> None:
        thread = threading.Thread(target=affinity.bind)
        thread.start()
        thread.join()

    def bind_for_a_call(self) -> bool:
        """Bound itself, it calls what is decorated for tasks."""
        made = affinity.bind()
        bound(lambda: None, settings=ON_ODD)()
        return affinity.current_report() is made


def start(node: str, cls: type = Scheduler, **options: Any) -> Any:
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_gpus=1, num_cpus=0, **options)(cls).options(scheduling_strategy=here).remote()


def by_gpus() -> dict[int, str]:
    """Ray's id of each alive node, by the number of its GPUs."""
    return {int(node["Resources"]["GPU"]): node["NodeID"] for node in ray.nodes() if node["Alive"]}


def of(pid: int) -> ActorAudit:
    return next(found for found in audit(timeout=30) if found.pid == pid)


def command(*arguments: str, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    text = [sys.executable, "-c", "from affinity.cli import main; main()", "ray", *arguments]
    return subprocess.run(text, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60, check=False)


def test_a_survey_has_every_machine_and_a_plan_for_each_of_its_gpus(cluster: Cluster) -> None:
    """One answer a node, with what that node's own settings make of it; no free CPU is needed."""
    found = {answer.node: answer for answer in survey(timeout=60)}
    assert {node: len(answer.plans) for node, answer in found.items()} == {n: count for count, n in by_gpus().items()}
    largest = found[by_gpus()[4]]
    assert largest.error == ""
    assert largest.machine is not None
    assert largest.machine["online_cpus"] == str(affinity.Host.live().topology.online)
    assert [plan["cpus"] for plan in largest.plans] == [str(EVEN), str(ODD)] * 2
    assert {plan["launch_mode"] for plan in largest.plans} == {"ray"}


def test_an_audit_has_every_bound_actor_also_one_that_answers_no_call(cluster: Cluster) -> None:
    """The kernel is asked, not the actor: threads, pages, and whether the binding still holds."""
    made = {count: start(node) for count, node in by_gpus().items()}
    pids = dict(zip(made, ray.get([actor.pid.remote() for actor in made.values()], timeout=60), strict=True))
    for actor in made.values():
        actor.run.remote()
    found = {actor.pid: actor for actor in audit(timeout=60)}
    assert found.keys() == set(pids.values())
    for count, pid in pids.items():
        assert found[pid].node == by_gpus()[count]
        assert found[pid].name == "Scheduler"
        assert found[pid].in_force
        assert found[pid].threads >= 10
        assert found[pid].threads_outside == 0
        assert found[pid].report["requested"]["cpus"] == str(EVEN)
        assert found[pid].local_share == 1.0
    for actor in made.values():
        ray.kill(actor)


@pytest.mark.skipif(EVEN == ODD, reason="one CPU: nothing can be outside")
def test_an_audit_finds_a_thread_that_has_left(cluster: Cluster) -> None:
    """Something in the actor gave one of its threads all CPUs after the bind."""
    actor = start(by_gpus()[4])
    pid = ray.get(actor.pid.remote(), timeout=60)
    assert of(pid).in_force
    ray.get(actor.let_a_thread_go.remote(), timeout=30)
    assert (of(pid).in_force, of(pid).threads_outside) == (False, 1)
    ray.kill(actor)


@pytest.mark.skipif(EVEN == ODD, reason="one CPU: nothing can be outside")
def test_an_audit_counts_a_second_bind_and_a_failed_one(cluster: Cluster) -> None:
    """A thread that a second bind left alone is no change; a placement that was never in force does not hold."""
    actor = start(by_gpus()[4])
    pid = ray.get(actor.pid.remote(), timeout=60)
    ray.get(actor.pin_a_thread.remote(), timeout=30)
    ray.get(actor.bind_again.remote(), timeout=30)
    assert (of(pid).in_force, of(pid).threads_outside) == (True, 1)
    ray.get(actor.bind_where_it_cannot.remote(), timeout=30)
    assert (of(pid).in_force, of(pid).error) == (False, "")
    ray.kill(actor)


def test_a_bind_that_was_undone_has_no_report_and_one_from_any_thread_has(cluster: Cluster) -> None:
    """`affinity.bind()` anywhere in the actor; what a block gives back is not in force."""
    actor = start(by_gpus()[4], Loose)
    pid = ray.get(actor.pid.remote(), timeout=60)
    assert ray.get(actor.bind_for_a_while.remote(), timeout=30) == [True, True]
    assert (of(pid).report, of(pid).in_force, of(pid).name) == (None, None, "Loose")
    ray.get(actor.bind_in_a_thread.remote(), timeout=30)
    assert (of(pid).in_force, of(pid).threads_outside, of(pid).name) == (True, 0, "")
    ray.kill(actor)


@pytest.mark.skipif(EVEN == ODD, reason="one CPU: nothing can be outside")
def test_a_bound_actor_that_calls_a_bound_function_stays_as_it_was(cluster: Cluster) -> None:
    """Its own binding is in force again after the call, and so is its record."""
    actor = start(by_gpus()[4], Loose)
    pid = ray.get(actor.pid.remote(), timeout=60)
    assert ray.get(actor.bind_for_a_call.remote(), timeout=30)
    assert (of(pid).in_force, of(pid).threads_outside, of(pid).report["requested"]["cpus"]) == (True, 0, str(EVEN))
    ray.kill(actor)


def test_a_record_that_was_written_meanwhile_is_not_dropped(cluster: Cluster) -> None:
    """An actor that Ray restarts has the id of the one that has ended."""
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_list, _internal_kv_put

    from affinity.integrations.ray.actor_audit import _delete

    for record, kept in ({**RECORD, "pid": 2}, True), ("{", True), (RECORD, False):
        _internal_kv_put(b"actor", json.dumps(record).encode(), namespace=b"numa-affinity")
        _delete("actor", RECORD)
        assert (b"actor" in _internal_kv_list(b"", namespace=b"numa-affinity")) is kept
        _internal_kv_del(b"actor", namespace=b"numa-affinity")


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which takes root; continuous integration is")
def test_a_record_of_a_process_that_is_another_users_now_is_dropped() -> None:
    """As uid 65534: of PID 1 no memory may be read, and one such record, or one that is wrong, hides no other."""
    text = """
import os
from affinity.integrations.ray.actor_state import Asked, Found, inspect
from affinity.integrations.ray.actor_table import GpuActor
from affinity.integrations.ray.store import pid_namespace
from affinity.kernel.linux import THIS_PROCESS
mine = {"pid": os.getpid(), "identity": THIS_PROCESS.identity(), "namespace": pid_namespace(), "left_alone": 0,
        "report": {"requested": None, "satisfied": True, "gpus": []}}
theirs = {**mine, "pid": 1}
same = {**theirs, "identity": THIS_PROCESS.process(1).identity()}
wrong = {**mine, "report": {**mine["report"], "requested": {"cpus": "0-"}}}
elsewhere = {**mine, "namespace": "pid:[1]"}
records = {"mine": mine, "theirs": theirs, "same": same, "wrong": wrong, "elsewhere": elsewhere}
asked = {name: Asked(record) for name, record in records.items()}
asked |= {str(pid): Asked(None, GpuActor("", "", "", pid, (0,))) for pid in (1, 4194304)}
answers = inspect((asked, True))
print(answers["theirs"] == Found(True, None), sum(found.is_stale for found in answers.values()))
found = {name: found.audit for name, found in answers.items()}
print(found["mine"]["in_force"], found["mine"]["resident"] is not None, found["mine"]["process"]["locality"])
print(found["same"]["threads"] > 0, found["same"]["in_force"], found["same"]["resident"])
print(found["wrong"]["error"].startswith("ListFormatError"), "another container" in found["elsewhere"]["error"])
print(found["1"]["error"])
print(found["4194304"]["error"])
"""
    # Its directories may be closed to another user, as tox keeps its own.
    other = ("setpriv", "--reuid=65534", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--")
    command = [*other, sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == [
        "True 1",
        "True True unknown",
        "True True None",
        "True True",
        "process 1 cannot be read (Permission denied), it is another user's or undumpable: "
        "run `affinity ps --pid 1` as root on its node",
        "no worker of this node has its PID 4194304 here: it has ended, "
        "or it runs in another container (PID namespace) than its node's tasks: nothing is seen of it",
    ], done.stderr


def test_a_record_that_cannot_be_read_costs_its_own_row(cluster: Cluster) -> None:
    """One that is not JSON, or lacks a field, as another version may leave; the actor beside it is audited."""
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    actor = start(by_gpus()[4])
    pid = ray.get(actor.pid.remote(), timeout=60)
    records = {b"not-json": b"{", b"a-list": b"[1]", b"no-report": b'{"pid": 1, "node": "x"}', b"\xff": b"{}"}
    records |= {b"empty-list": b"[]", b"no-utf-8": b"\xff", b"another-pid": json.dumps({**RECORD, "pid": "1"}).encode()}
    reports = {"cpus": {"requested": {"cpus": "all", "nodes": []}}, "nodes": {"requested": {"cpus": "0"}}}
    for name, wrong in {**reports, "gpus": {"gpus": ["GPU 0"]}, "requested": {"requested": 3}}.items():
        records[f"report-{name}".encode()] = json.dumps({**RECORD, "report": {**RECORD["report"], **wrong}}).encode()
    for key, value in records.items():
        _internal_kv_put(key, value, namespace=b"numa-affinity")
    try:
        found = list(audit(timeout=30))
        reported = command("audit", "--address", cluster.address)
    finally:
        for key in records:
            _internal_kv_del(key, namespace=b"numa-affinity")
    assert [(f.in_force, f.error) for f in found if f.pid == pid] == [(True, "")]
    errors = {f.actor: f.error for f in found if f.pid == 0}
    assert set(errors) == {key.decode(errors="replace") for key in records}
    assert "its record cannot be read: its name, identity, namespace, left_alone, report" in errors["no-report"]
    assert reported.returncode == 1
    assert all(key.decode(errors="replace") in reported.stdout for key in records)
    ray.kill(actor)


def test_an_actor_that_has_ended_is_not_audited_and_its_record_is_dropped(cluster: Cluster) -> None:
    """A cluster that runs for months keeps no list of the dead."""
    from ray.experimental.internal_kv import _internal_kv_list

    actor = start(by_gpus()[4])
    pid = ray.get(actor.pid.remote(), timeout=60)
    ray.kill(actor)
    end = time.monotonic() + 30
    while pid in {found.pid for found in audit(timeout=30)}:
        assert time.monotonic() < end, "the killed actor is still listed"
        time.sleep(0.1)
    assert actor._actor_id.hex().encode() not in _internal_kv_list(b"", namespace=b"numa-affinity")


def test_the_commands_show_the_cluster_at_an_address(
    cluster: Cluster, tmp_path: Path, load_json: Callable[..., Any]
) -> None:
    """`affinity ray survey` and `audit`: tables for people, JSON for programs, exit status 0 where all is well."""
    actor = start(by_gpus()[4])
    pid = ray.get(actor.pid.remote(), timeout=60)
    reported = command("survey", "--address", cluster.address, "--json")
    nodes = load_json("ray-survey", reported.stdout)
    assert reported.returncode == 0
    assert sorted(len(node["plans"]) for node in nodes) == sorted(GPUS)
    assert {node["version"] for node in nodes} == {1}
    reported = command("audit", "--address", cluster.address)
    assert reported.returncode == 0, reported.stderr
    (row,) = [line for line in reported.stdout.splitlines() if "Scheduler" in line]
    assert str(pid) in row
    assert "yes" in row
    reported = command("audit", "--address", cluster.address, "--json")
    assert reported.returncode == 0, reported.stderr
    (found,) = (found for found in load_json("ray-audit", reported.stdout) if found["pid"] == pid)
    keys = {"threads_outside": "outside", "in_force": "holds"}
    fields = [field.name for field in attrs.fields(ActorAudit)]
    assert found.keys() == {"version", *(keys.get(name, name) for name in fields), "local_share"}
    assert (found["holds"], found["report"]["strategy"]) == (True, "libnuma")
    ray.get(actor.bind_where_it_cannot.remote(), timeout=30)
    assert command("audit", "--address", cluster.address).returncode == 1
    for name, shown in (("survey", "<svg"), ("audit", "Scheduler")):
        page = tmp_path / f"{name}.html"
        assert command(name, "--address", cluster.address, "-o", str(page)).returncode == int(name == "audit")
        assert shown in page.read_text()
    ray.kill(actor)


def test_on_a_terminal_the_survey_shows_how_many_nodes_have_answered(cluster: Cluster) -> None:
    terminal, theirs = os.openpty()
    assert command("survey", "--address", cluster.address, stderr=theirs).returncode == 0
    shown = os.read(terminal, 4096).decode().split("\r\x1b[K")
    assert [line for line in shown if line] == [f"{n} of 3 nodes have replied" for n in range(4)]


def test_without_a_cluster_a_command_states_so_and_ends_with_2() -> None:
    """At once, where Ray would try for two minutes, and without a traceback."""
    reported = command("survey", "--address", "127.0.0.1:1")
    assert reported.returncode == 2
    assert reported.stderr.strip() == "affinity: no Ray cluster at '127.0.0.1:1': [Errno 111] Connection refused"
    ray.shutdown()
    with pytest.raises(affinity.UsageError, match="not connected to a Ray cluster"):
        next(survey())


def test_a_silent_node_is_reported_and_not_waited_for(cluster: Cluster) -> None:
    """Its raylet is stopped: nothing comes back, and nothing states that nothing will. Then it dies, while asked."""
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error", ignore_reinit_error=True)
    node = by_gpus()[4]
    (raylet,) = (p for n in cluster.worker_nodes if n.node_id == node for p in n.all_processes["raylet"])
    os.kill(raylet.process.pid, signal.SIGSTOP)
    try:
        reported = command("survey", "--address", cluster.address, "--timeout", "5")
        assert (reported.returncode, "no answer within 5 s" in reported.stdout) == (1, True)
        began = time.monotonic()
        found = {answer.node: answer.error for answer in survey(timeout=10)}
        assert time.monotonic() - began < 30
        assert found.pop(node) == "no answer within 10 s"
        assert set(found.values()) == {""}
        asked = survey(timeout=100)
        answers = [next(asked), next(asked)]
        os.kill(raylet.process.pid, signal.SIGKILL)
        answers.append(next(asked))
        assert time.monotonic() - began < 60
        assert answers[-1].node == node
        assert answers[-1].machine is None
        assert answers[-1].error
        assert list(asked) == []
    finally:
        os.kill(raylet.process.pid, signal.SIGKILL)
