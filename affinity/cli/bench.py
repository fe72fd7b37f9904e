"""`affinity bench`: does binding pay for a command on this server?"""

from __future__ import annotations

import functools
import re
import sys
from statistics import median

import click

from affinity.cli import _options, _output, _validate

#: CPUs that are busy with something else, on average, from which on a remark is made.
_LOAD = 0.5


@click.command()
@click.option("--command", "line", required=True, metavar="'CMD'", help="The command, which a shell runs.")
@click.option("--metric", metavar="REGEX", help="The number in its output to compare: the last match, of the first "
              "group if there is one. Default: the seconds that the command takes.")  # fmt: skip
@click.option("--lower-is-better", is_flag=True, help="The number is a time or a cost.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=2), help="Runs of each kind.")
@_options.gpu
@_options.node
@_options.as_json
def command(
    *,
    line: str,
    metric: str | None,
    lower_is_better: bool,
    rounds: int,
    gpu: str | None,
    node: int | None,
    as_json: bool,
) -> None:
    """Run a command unbound, bound, and bound to another node, in turn, and compare one number.

    With --gpu or --node the command itself is bound, as by `affinity run`. Without, its workers bind themselves: those
    of SGLang and vLLM, ranks under AFFINITY_AUTOSTART=1, and whatever calls `affinity.bind()`.
    """
    from affinity.comparison import compare, run_command, variants
    from affinity.errors import UsageError
    from affinity.host import Host
    from affinity.render import serialize

    _validate.one_place(gpu, node)
    try:
        pattern = None if metric is None else re.compile(metric)
    except re.error as malformed:
        raise UsageError(f"--metric {metric!r}: {malformed}; expected a regular expression of Python") from None
    host = Host.live()
    ways = variants(host, _validate.settings(), gpu=gpu, node=node)
    found = compare(
        ways,
        rounds,
        functools.partial(run_command, line, pattern),
        higher_is_better=pattern is not None and not lower_is_better,
        progress=lambda text: print(f"affinity: {text}", file=sys.stderr, flush=True),
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
    if found.others > _LOAD:
        _output.line(f"note: {found.others:.1f} CPUs were busy with something else: repeat it on a quiet machine")
    return _output.line(found.verdict)
