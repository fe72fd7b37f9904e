"""`affinity bench`: what nodes are worth on this server, and whether binding pays for a command."""

from __future__ import annotations

import functools
import re
import sys
from statistics import median
from typing import TYPE_CHECKING

import click

from affinity.cli import _options, _output, _validate

if TYPE_CHECKING:
    from affinity.benchmark.server import Measurement
    from affinity.host import Host

#: CPUs that are busy with something else, on average, from which on a remark is made.
_LOAD = 0.5


@click.command()
@click.option("--command", "line", metavar="'CMD'", help="Compare runs of a command, which a shell runs.")
@click.option("--metric", metavar="REGEX", help="The number in the command's output to compare: the last match, of the "
              "first group if there is one. Default: the seconds that the command takes.")  # fmt: skip
@click.option("--lower-is-better", is_flag=True, help="That number is a time or a cost.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=2), help="Repetitions.")
@_options.gpu
@click.option("--node", type=click.IntRange(min=0), help="With --command: the NUMA node to bind it to.")
@_options.as_json
def command(
    *,
    line: str | None,
    metric: str | None,
    lower_is_better: bool,
    rounds: int,
    gpu: str | None,
    node: int | None,
    as_json: bool,
) -> None:
    """Measure memory of each node, from the CPUs of each node and from each GPU.

    With --command: run the command unbound, bound, and bound to another node, in turn, and compare one number. With
    --gpu or --node the command itself is bound, as by `affinity run`. Without, its workers bind themselves: those
    of SGLang and vLLM, ranks under AFFINITY_AUTOSTART=1, and whatever calls `affinity.bind()`.
    """
    from affinity.errors import UsageError
    from affinity.host import Host

    _validate.one_place(gpu, node)
    if line is not None:
        return _compare(
            Host.live(),
            line,
            metric=metric,
            lower_is_better=lower_is_better,
            rounds=rounds,
            gpu=gpu,
            node=node,
            as_json=as_json,
        )
    given = {"--metric": metric is not None, "--lower-is-better": lower_is_better, "--node": node is not None}
    for option, is_given in given.items():
        if is_given:
            raise UsageError(f"{option} is for a command: give it with --command")
    return _measure(Host.live(), rounds, gpu, as_json)


def _progress(text: str) -> None:
    print(f"affinity: {text}", file=sys.stderr, flush=True)


def _remark_on_load(others: float) -> None:
    if others > _LOAD:
        _output.line(f"note: {others:.1f} CPUs were busy with something else: repeat it on a quiet machine")


def _measure(host: Host, rounds: int, gpu: str | None, as_json: bool) -> None:
    from importlib.util import find_spec

    from affinity.benchmark.server import jobs, measure, run_job
    from affinity.errors import UsageError
    from affinity.kernel.memory_speed import emulated_processor
    from affinity.observe import observe
    from affinity.plugins import Plugins

    launch = observe(Plugins(), gpu=gpu or "all", launch_mode="spawn", settings=_validate.settings(), host=host).launch
    with_cuda = find_spec("cuda") is not None and find_spec("cuda.bindings") is not None
    todo, notes = jobs(host, launch.gpus, with_cuda=with_cuda, emulated=emulated_processor())
    if find_spec("numpy") is None:
        raise UsageError("numpy, which measures, is missing: pip install 'numa-affinity[bench]'")
    cpu_nodes = host.topology.nodes_of(host.allowed_cpus)
    show(measure(todo, rounds, run_job, cpu_nodes=cpu_nodes, notes=notes, progress=_progress), as_json=as_json)


def show(found: Measurement, *, as_json: bool) -> None:
    """Print a measurement."""
    from affinity.benchmark.server import QUANTITIES
    from affinity.render import serialize, spread

    if as_json:
        return _output.json(serialize.measurement(found))
    for quantity in QUANTITIES:
        rows = []
        for place in found.places:
            samples = [found.values(quantity, place, node) for node in found.nodes]
            if any(samples):
                rows.append((place.name, place.node, *(spread(values) if values else None for values in samples)))
        if rows:
            better = "more" if quantity.higher_is_better else "less"
            title = f"{quantity.title}, {quantity.unit} ({better} is better)"
            _output.table(title, ("of", "node", *(f"memory of {node}" for node in found.nodes)), rows)
    _output.lines("note", found.notes)
    _remark_on_load(found.others)
    return _output.line(found.verdict)


def _compare(
    host: Host,
    line: str,
    *,
    metric: str | None,
    lower_is_better: bool,
    rounds: int,
    gpu: str | None,
    node: int | None,
    as_json: bool,
) -> None:
    from affinity.benchmark.comparison import compare, run_command, variants
    from affinity.errors import UsageError
    from affinity.render import serialize

    try:
        pattern = None if metric is None else re.compile(metric)
    except re.error as malformed:
        raise UsageError(f"--metric {metric!r}: {malformed}; expected a regular expression of Python") from None
    ways = variants(host, _validate.settings(), gpu=gpu, node=node)
    found = compare(
        ways,
        rounds,
        functools.partial(run_command, line, pattern),
        higher_is_better=pattern is not None and not lower_is_better,
        progress=_progress,
    )
    if as_json:
        return _output.json(serialize.comparison(found))
    rows = [
        (way.name, way.where, *map("{:.6g}".format, (median(values), min(values), max(values))), found.ratio(way.name))
        for way in found.variants
        for values in (found.values(way.name),)
    ]
    unit = "seconds" if pattern is None else f"--metric {metric}"
    _output.table(f"{unit}, {rounds} rounds", ("run", "where", "median", "least", "greatest", "to unbound"), rows)
    _remark_on_load(found.others)
    return _output.line(found.verdict)
