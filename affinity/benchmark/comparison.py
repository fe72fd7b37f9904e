"""Does binding pay? Run a command unbound, bound, and bound to another node, in turn, and compare one number.

A machine that others use drifts from minute to minute. So the three runs of a round follow each other, each round
begins with another of them, and what is compared is the ratio within a round.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import attrs

from affinity.api import plan_each
from affinity.errors import UsageError
from affinity.host import Host
from affinity.kernel.cpu_time import busy_seconds, seconds_of_children
from affinity.observe import GpuReference
from affinity.settings import Settings
from affinity.topology.cpuset import NodeSet

UNBOUND, BOUND, ELSEWHERE = "unbound", "bound", "elsewhere"

#: Lines of a command's output that an error shows.
_TAIL = 8


@attrs.frozen
class Variant:
    """One way to start the command. prefix: what stands before it. environ: variables to set, None to unset one."""

    name: str
    prefix: tuple[str, ...]
    environ: Mapping[str, str | None]
    where: str


class Run(NamedTuple):
    """The number of one run. others: CPUs that were busy with something else, on average."""

    value: float
    others: float


@attrs.frozen
class Ratio:
    """The median of a variant's number over that of the unbound run of its round, the least and the greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], peers: Sequence[float]) -> Ratio:
        ratios = [value / peer for value, peer in zip(values, peers, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.3g} x ({self.low:.3g} to {self.high:.3g})"


@attrs.frozen
class Comparison:
    """The runs of each variant, by its name, in order of the rounds. higher_is_better: what the number means."""

    variants: tuple[Variant, ...]
    runs: Mapping[str, Sequence[Run]]
    higher_is_better: bool

    def values(self, name: str) -> list[float]:
        return [run.value for run in self.runs[name]]

    def ratio(self, name: str) -> Ratio:
        """Return the ratio of a variant's numbers to those of the unbound runs."""
        return Ratio.of(self.values(name), self.values(UNBOUND))

    @property
    def others(self) -> float:
        """CPUs that were busy with something else, on average over all runs."""
        return statistics.fmean(run.others for runs in self.runs.values() for run in runs)

    @property
    def verdict(self) -> str:
        """One line: whether bound differs from unbound by more than the rounds differ from each other."""
        ratio = self.ratio(BOUND)
        if ratio.low <= 1 <= ratio.high:
            return f"bound is {ratio} unbound: these runs show no difference"
        pays = (ratio.median > 1) is self.higher_is_better
        return f"bound is {ratio} unbound: {'bind' if pays else 'do not bind'}"


def variants(
    host: Host, settings: Settings, *, gpu: GpuReference = None, node: int | None = None
) -> tuple[Variant, ...]:
    """Return the ways to start a command.

    With a GPU or a node the command itself is bound, as by `affinity run`. Without, its workers bind themselves
    (plugins of engines, AFFINITY_AUTOSTART, calls of `bind`), and AFFINITY_NODES sends them elsewhere.
    Raise UsageError if there is nothing to compare: one node with CPUs, or no GPU whose node is known.
    """
    nodes = host.topology.nodes_of(host.allowed_cpus)
    if len(nodes) < 2:
        raise UsageError(f"nothing to compare: CPUs of one node are allowed here ({nodes or 'none'})")
    plans = plan_each(gpu=gpu or "all", launch_mode="spawn", settings=settings, host=host) if node is None else []
    near = NodeSet(plan.launch.gpus[0].node for plan in plans if plan.launch.gpus[0].node is not None)
    near = near if node is None else NodeSet([node])
    if not near:
        what = "the node of no visible GPU is known" if plans else "no GPU is visible"
        raise UsageError(f"nothing to compare: {what}; expected --node, or the node of each GPU in AFFINITY_NODES")
    far = NodeSet(_farthest(host, n, nodes) for n in near)
    if gpu is not None or node is not None:
        bound = _run("--node", str(node)) if node is not None else _run("--gpu", str(gpu))
        elsewhere = _run("--node", str(far.first()))
        sent = {"AFFINITY_AUTO": "0"}  # what binds itself within stays there
    else:
        bound = elsewhere = ()
        machine = plans[0].launch.machine_gpus
        other = (nodes.first() if g.node is None else _farthest(host, g.node, nodes) for g in machine)
        sent = {"AFFINITY_NODES": ",".join(map(str, other))}
    return (
        Variant(UNBOUND, (), {"AFFINITY_STRATEGY": "noop"}, "as a process is started here"),
        Variant(BOUND, bound, {"AFFINITY_AUTO": None}, f"node {near}"),
        Variant(ELSEWHERE, elsewhere, {"AFFINITY_AUTO": None, **sent}, f"node {far}"),
    )


def _run(*options: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "affinity", "run", *options, "--")


def _farthest(host: Host, node: int, among: NodeSet) -> int:
    """Return the node at the greatest distance, the first of several."""
    row = host.topology.distances.get(node, {})
    return max((other for other in among if other != node), key=lambda other: (row.get(other, 0), -other))


def compare(
    ways: Sequence[Variant],
    rounds: int,
    run: Callable[[Variant], Run],
    *,
    higher_is_better: bool,
    progress: Callable[[str], None],
) -> Comparison:
    """Run each variant once a round, each round begun by the next of them."""
    runs: dict[str, list[Run]] = {way.name: [] for way in ways}
    for number in range(rounds):
        start = number % len(ways)
        for way in (*ways[start:], *ways[:start]):
            progress(f"round {number + 1} of {rounds}, {way.name} ({way.where})")
            runs[way.name].append(run(way))
    return Comparison(tuple(ways), runs, higher_is_better)


def run_command(line: str, metric: re.Pattern[str] | None, way: Variant) -> Run:
    """Run a shell's command line in one way; the number is the last that `metric` finds, else the seconds it took.

    Raise UsageError if the command fails, or its output has no number.
    """
    line_of_way = [*way.prefix, "sh", "-c", line]
    done, took, others = timed(line_of_way, way.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise UsageError(f"the command ended with status {done.returncode} when {way.name}:\n{tail(done.stdout)}")
    return Run(took if metric is None else number_in(done.stdout, metric), others)


def timed(
    command: Sequence[str], environ: Mapping[str, str | None], *, stdout: int, stderr: int
) -> tuple[subprocess.CompletedProcess[str], float, float]:
    """Run a command; return it, the seconds it took, and how many CPUs were busy with something else, on average.

    environ: variables to set, None to unset one.
    """
    variables = {name: text for name, text in {**os.environ, **environ}.items() if text is not None}
    busy, own, began = busy_seconds(), seconds_of_children(), time.monotonic()
    done = subprocess.run(
        command, env=variables, stdin=subprocess.DEVNULL, text=True, errors="replace", stdout=stdout, stderr=stderr,
        check=False,
    )  # fmt: skip
    took = time.monotonic() - began
    return done, took, max(busy_seconds() - busy - (seconds_of_children() - own), 0.0) / took


def number_in(output: str, metric: re.Pattern[str]) -> float:
    """Return the last number that a regular expression finds: its first group, or all of it.

    Raise UsageError if it finds none.
    """
    found = [match[1 if metric.groups else 0] for match in metric.finditer(output)]
    try:
        number = float(found[-1].replace(",", ""))
    except (IndexError, ValueError, AttributeError):
        number = 0.0
    if number > 0:
        return number
    what = f"found {found[-1]!r}" if found else "found nothing"
    raise UsageError(
        f"--metric {metric.pattern!r} {what}; expected a number above 0, in its first group if it has one. The output "
        f"ends with:\n{tail(output)}"
    )


def tail(output: str) -> str:
    """Return the last lines of an output, for an error."""
    return "\n".join(output.splitlines()[-_TAIL:])
