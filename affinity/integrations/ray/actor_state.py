"""What the audit's task finds on a node about the actors there, and how it binds them: as `affinity ps` and `attach`.

Which GPU an actor has is stated by Ray, before the actor uses it. A driver that lists it on others is a contradiction,
and decides nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import attrs

from affinity.devices import Evidence, GpuUse, ProcessFilter
from affinity.devices.inventory import Inventory
from affinity.devices.references import resolve_all
from affinity.errors import AffinityError, BindError
from affinity.external import attach_unlogged
from affinity.integrations.ray.actor_table import GpuActor
from affinity.integrations.ray.context import raylet_gpus
from affinity.integrations.ray.store import pid_namespace
from affinity.kernel.linux import THIS_PROCESS
from affinity.kernel.process import LinuxProcess
from affinity.kernel.protocol import Process
from affinity.observe import SELECTORS
from affinity.plugins import Plugins
from affinity.render import serialize
from affinity.report.locality import Assessment, Locality
from affinity.report.processes import GpuProcess, GpuProcesses
from affinity.topology.cpuset import CpuSet, NodeSet

_ELSEWHERE = "it runs in another container (PID namespace) than its node's tasks: nothing is seen of it"

#: What an entry of CUDA_VISIBLE_DEVICES (or its like) counts among.
_NUMBERING = SELECTORS | {"CUDA_DEVICE_ORDER"}


class Asked(NamedTuple):
    """An actor to look at. record: of its bind, None if it did not bind itself. listed: None if it has no GPU."""

    record: dict[str, Any] | None = None
    listed: GpuActor | None = None

    @property
    def pids(self) -> list[int]:
        """PIDs that its process may have."""
        found = [self.record["pid"]] if self.record is not None else []
        return found if self.listed is None else [*found, self.listed.pid]


class Found(NamedTuple):
    """What was found of an actor.

    is_stale: the process that wrote its record has ended. audit: fields of its ActorAudit, None if it has ended.
    """

    is_stale: bool
    audit: dict[str, Any] | None


def inspect(question: tuple[Mapping[str, Asked], bool]) -> dict[str, Found]:
    """Return what the kernel shows of each actor; bind the misplaced ones first, if that is asked. Runs on the node."""
    actors, attach = question
    node = Node.here({pid for asked in actors.values() for pid in asked.pids})
    return {actor: node.inspect(asked, attach=attach) for actor, asked in actors.items()}


@attrs.frozen
class Node:
    """The node that the task runs on.

    uses: which process uses which GPU, as its drivers show. environ: the variables that its workers start with.
    inventory: the GPUs as one of them counts. gpus: Ray's names of those that it hands out, None if it counts all.
    """

    reader: GpuProcesses
    uses: Sequence[GpuUse]
    environ: Mapping[str, str]
    inventory: Inventory
    gpus: Sequence[str] | None

    @classmethod
    def here(cls, pids: Collection[int]) -> Node:
        """Return the node of this process. pids: of the processes to look at."""
        reader = GpuProcesses.of()
        try:
            environ = LinuxProcess(os.getpid()).environ
        except OSError:  # an interpreter with file capabilities: what Ray has written into it since may differ
            environ = os.environ
        inventory = Inventory(reader.host, reader.settings, environ, Plugins().devices)
        return cls(reader, reader.uses(ProcessFilter(pids, pids))[0], environ, inventory, raylet_gpus())

    def inspect(self, asked: Asked, *, attach: bool) -> Found:
        """Return what the kernel shows of one actor; an error costs its row alone."""
        is_stale = False
        try:
            process = None
            if asked.record is not None:
                if pid_namespace() != asked.record["namespace"]:
                    return Found(False, {"error": _ELSEWHERE})
                process = _writer(asked.record)
                is_stale = process is None
            if process is not None:
                return Found(False, self._state(process, asked, asked.record, attach=attach))
            if asked.listed is None:
                return Found(is_stale, None)
            return Found(is_stale, self._state(self._worker(asked.listed.pid), asked, None, attach=attach))
        except ProcessLookupError:
            return Found(asked.record is not None, None)
        except BindError as unreadable:
            return Found(is_stale, {"error": str(unreadable)})
        except (AffinityError, OSError, ValueError, KeyError, TypeError) as wrong:
            return Found(is_stale, {"error": f"{type(wrong).__name__}: {wrong}"})

    def _worker(self, pid: int) -> Process:
        """Return the process of an actor that Ray lists. Raises BindError if it is not one of this raylet's workers."""
        try:
            process = THIS_PROCESS.process(pid)
            if process.environ.get("RAY_RAYLET_PID") == self.environ.get("RAY_RAYLET_PID"):
                return process
        except ProcessLookupError:
            pass
        except PermissionError as refused:
            raise BindError(
                f"process {pid} cannot be read ({refused.strerror}), it is another user's or undumpable: "
                f"run `affinity ps --pid {pid}` as root on its node"
            ) from refused
        raise BindError(f"no worker of this node has its PID {pid} here: it has ended, or {_ELSEWHERE}")

    def _state(self, process: Process, asked: Asked, record: dict[str, Any] | None, *, attach: bool) -> dict[str, Any]:
        assigned, unknown = self._assigned(process, asked.listed) if asked.listed is not None else ([], "")
        shown = [use for use in self.uses if use.pid == process.pid and use.is_here]
        uses, problem = decide(shown, assigned, unknown)
        rows = self._rows(process, uses, problem)
        found = _against(record, rows[0])
        if attach and rows[0].assessment.locality.is_misplaced and not found["in_force"]:
            reason = "" if record is not None else rows[0].left_alone  # what a recorded bind has set is ours to set
            attached = {"left_alone": reason} if reason else self._attach(rows)
            rows = self._rows(process, uses, problem)
            found = {**_against(record, rows[0]), "attached": attached}
        row = rows[0]
        resident = row.state.resident
        gpus = record["report"]["gpus"] if record is not None else [serialize.gpu(r.gpu) for r in rows if r.gpu]
        return {
            **found,
            "gpus": tuple(gpus),
            "threads": len(row.state.threads),
            "resident": None if resident is None else dict(resident),
            "resident_sampled": 0 if resident is None else resident.sampled,
            "process": {**serialize.process(row), "bound": _bound(row, record)},
        }

    def _rows(self, process: Process, uses: Iterable[GpuUse], problem: str) -> list[GpuProcess]:
        """Return a row for each GPU of a process. Raise ProcessLookupError if it has ended, BindError if unreadable.

        problem: why its GPUs are not certain, "" if they are.
        """
        rows = self.reader.rows(uses, pids=(process.pid,))
        if not rows or rows[0].identity not in ("", process.identity()):
            raise ProcessLookupError
        if not rows[0].state.threads:
            raise BindError(rows[0].assessment.reason)
        if problem:
            rows = [attrs.evolve(row, placement=None, assessment=Assessment(Locality.UNKNOWN, problem)) for row in rows]
        return rows

    def _assigned(self, process: Process, listed: GpuActor) -> tuple[list[GpuUse], str]:
        """Return the GPUs that Ray assigned to an actor, or none and why they are not known."""
        differing = sorted(name for name in _NUMBERING if process.environ.get(name) != self.environ.get(name))
        if differing:
            return [], f"{', '.join(differing)} is another one than its node's, by which Ray counts the GPUs"
        ids = [str(place) for place in listed.gpus]
        if self.gpus is not None:  # more positions than entries: the actor has all entries
            here = [self.gpus[place] for place in listed.gpus if place < len(self.gpus)]
            ids = here if len(here) == len(ids) else list(self.gpus)
        try:
            found = resolve_all([f"driver:{name}" for name in ids], self.inventory)
        except AffinityError as unknown:
            return [], f"Ray assigned GPU {', '.join(ids)} to it, which is not here: {unknown}"
        return [GpuUse(process.pid, gpu.pci, Evidence.ASSIGNED, "assigned by Ray") for gpu in found if gpu.pci], ""

    def _attach(self, rows: Sequence[GpuProcess]) -> dict[str, Any]:
        gpus = ",".join(str(row.gpu.pci) for row in rows if row.gpu is not None)
        try:
            report = attach_unlogged(
                rows[0].pid, gpu=gpus, node=None, settings=self.reader.settings, host=None, widen=False,
                identity=rows[0].identity,
            )  # fmt: skip
        except AffinityError as error:
            return {"error": str(error), "exit_status": 3 if isinstance(error, BindError) else 2}
        return {"report": serialize.report(report)}


def decide(shown: Sequence[GpuUse], assigned: Sequence[GpuUse], unknown: str) -> tuple[list[GpuUse], str]:
    """Return the GPUs of an actor with their evidence, and why they are not certain, "" if nothing is against them.

    shown: by drivers and open files. assigned: by Ray, and `unknown` is why these are not known.
    """
    certain = {use.gpu for use in shown if use.evidence is Evidence.USES}
    if not assigned:
        return list(shown), "" if certain else unknown
    ours = {use.gpu for use in assigned}
    if certain and certain.isdisjoint(ours):
        names = [", ".join(sorted(map(str, gpus))) for gpus in (ours, certain)]
        return list(shown), "Ray assigned GPU {} to it, but it uses {}".format(*names)
    return list(assigned), ""


def _writer(record: Mapping[str, Any]) -> Process | None:
    """Return the process that wrote a record, None if it has ended."""
    try:
        process = THIS_PROCESS.process(record["pid"])
    except ProcessLookupError:
        return None
    return process if process.identity() == record["identity"] else None


def _against(record: Mapping[str, Any] | None, row: GpuProcess) -> dict[str, Any]:
    """Return the threads of an actor against what its record requested, else against the placement of its GPUs."""
    threads = len(row.state.threads)
    if record is None:
        inside = row.threads_inside
        return {"threads_outside": None if inside is None else threads - inside, "in_force": None}
    requested = record["report"]["requested"]
    cpus = CpuSet.parse(requested["cpus"]) if requested and requested["cpus"] is not None else None
    outside = threads - row.state.threads_inside(cpus) if cpus is not None else 0
    return {
        "threads_outside": outside,
        "in_force": record["report"]["satisfied"] and outside <= record["left_alone"],
    }


def _bound(row: GpuProcess, record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the last bind of an actor in the shape of `affinity ps`: from outside, by itself or at its start."""
    shown: dict[str, Any] | None = serialize.process(row)["bound"]
    report = record["report"] if record is not None else None
    if report is None or not report["requested"] or row.age is None or report.get("seconds_since_start") is None:
        return shown
    since = time.time() - row.age + report["seconds_since_start"]
    if shown is not None and shown["since"] > since:
        return shown
    return {
        "strategy": report["strategy"],
        "since": round(since, 3),
        "cpus": report["requested"]["cpus"],
        "memory": _memory(report["requested"].get("memory")),
        "gpus": [gpu["name"] for gpu in report["gpus"]],
    }


def _memory(policy: Mapping[str, Any] | None) -> str | None:
    return f"{policy['mode']}:{NodeSet(policy['nodes'])}" if policy and policy["nodes"] else None
