"""`affinity doctor`: why binding is refused or has no effect here."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from affinity.cli import _options, _output, _validate

if TYPE_CHECKING:
    from affinity.doctor import Check
    from affinity.host import Host


@click.command()
@_options.machine
@click.option("--strict", is_flag=True, help="Exit 1 if a verdict is blocked, warn or unknown.")
@_options.as_json
def command(*, host: Host, strict: bool, as_json: bool) -> None:
    """Check what refuses or weakens a binding: each value found, a verdict, and one remedy. Changes nothing.

    Run it where the worker runs: in its container, with its variables. Of another machine, what its files show.
    """
    from affinity.doctor import CHECKS, Subject, examine
    from affinity.integrations.doctor import check_engines
    from affinity.observe import observe
    from affinity.plugins import Plugins

    plugins = Plugins()
    observation = observe(plugins, gpu="all", settings=_validate.settings(), host=host)
    with _files(host) as root:
        checks = examine(Subject(observation, plugins, root), (*CHECKS, check_engines))
    if as_json:
        from affinity.render import serialize

        _output.json(serialize.examination(checks))
    else:
        _print(checks)
    if strict and any(check.verdict.is_problem for check in checks):
        sys.exit(1)


@contextmanager
def _files(host: Host) -> Iterator[str | None]:
    """Yield the directory with the machine's files, None for a synthetic one."""
    from affinity.topology.archive import extracted
    from affinity.topology.model import Origin

    detail = host.topology.detail
    if host.topology.origin is Origin.SYNTHETIC:
        yield None
    elif os.path.isfile(detail):
        with extracted(detail) as directory:
            yield directory
    else:
        yield detail


def _print(checks: Sequence[Check]) -> None:
    """Print the checks without a table, whose import takes longer than the checks."""
    for check in checks:
        print(f"{check.verdict.value:8} {check.name}: {check.value}")
        if check.remedy:
            print(f"{'':8} -> {check.remedy}")
    counts = Counter(check.verdict for check in checks)
    print(", ".join(f"{count} {verdict.value}" for verdict, count in counts.items()))
