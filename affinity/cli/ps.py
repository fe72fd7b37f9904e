"""`affinity ps`: list the processes that use a GPU, and whether each runs next to it."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from affinity.cli import _options, _output, _validate
from affinity.render import count_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from affinity.devices.gpu import Gpu
    from affinity.report.processes import GpuProcess

_COLUMNS = (
    "PID", "user", "command", "GPU", "address", "node", "evidence", "CPUs", "threads inside", "policies", "memory",
    "bound by", "locality",
)  # fmt: skip
_OPTIONAL = ("evidence", "policies", "bound by", "user", "address", "memory", "threads inside")
#: Characters of a command that are shown; on a terminal of fewer columns than _NARROW.
_COMMAND, _SHORT, _NARROW = 40, 16, 100
_NO_GPU = (
    "no GPU was found on this machine: `affinity strategies` shows what each device provider can see; "
    "--pid PID shows any process"
)


@click.command()
@click.option("--pid", "pids", multiple=True, type=click.IntRange(min=1), help="Only this process; may be repeated.")
@click.option("--all-users", is_flag=True, help="Processes of every user, not only of the one that calls.")
@click.option("--full", is_flag=True, help="Count every page, which stalls large processes; default: a sample of them.")
@_options.policy
@click.option("--watch", is_flag=True, help="Redraw until interrupted.")
@click.option("--interval", default=2.0, show_default=True, type=click.FloatRange(min=0.1), metavar="SECONDS",
              help="Time between two tables of --watch.")  # fmt: skip
@_options.as_json
@click.option("--prometheus", is_flag=True, help="Print metrics for node_exporter's textfile collector.")
def command(
    *,
    pids: tuple[int, ...],
    all_users: bool,
    full: bool,
    policy: str | None,
    watch: bool,
    interval: float,
    as_json: bool,
    prometheus: bool,
) -> None:
    """List the processes that use a GPU of this machine, and whether each runs next to it. Changes nothing.

    Exit status 1 if a process is misplaced: `partly`, `remote` or `not bound`.
    """
    from affinity.devices.use import EVERY_PROCESS, ProcessFilter
    from affinity.errors import UsageError
    from affinity.report.processes import GpuProcesses

    if watch + as_json + prometheus > 1:
        raise UsageError("--watch, --json and --prometheus are three forms of output: use one of them")
    reader = GpuProcesses.of(settings=_validate.settings(policy))
    user = None if all_users or pids else os.geteuid()
    asked = ProcessFilter(pids, pids) if pids else EVERY_PROCESS

    def read() -> tuple[list[GpuProcess], list[str]]:
        uses, notes = reader.uses(asked)
        rows = reader.rows(uses, user=user, pids=pids, full=full)
        missing = set(pids) - {row.pid for row in rows}
        if missing and not watch:
            raise UsageError(f"--pid {min(missing)}: there is no such process here")
        if not any(gpu.pci for gpu in reader.gpus):
            notes.append(_NO_GPU)
        others = len({use.pid for use in uses} - {row.pid for row in rows})
        if user is not None and others:
            notes.append(f"{count_of(others, 'process')} of other users left out: --all-users lists them")
        return rows, list(dict.fromkeys((*reader.notes, *notes)))

    rows, notes = read()
    if as_json:
        from affinity.render import serialize

        _output.json(serialize.processes(rows, notes, reader.settings.policy))
    elif prometheus:
        from affinity.render.prometheus import processes

        print(processes(rows), end="")
    elif watch:
        rows = _watch(read, rows, notes, reader.gpus, interval)
    else:
        print("\n".join(table(rows, notes, reader.gpus)))
    sys.exit(any(row.assessment.locality.is_misplaced for row in rows))


def _watch(
    read: Callable[[], tuple[list[GpuProcess], list[str]]],
    rows: list[GpuProcess],
    notes: list[str],
    gpus: Sequence[Gpu],
    interval: float,
) -> list[GpuProcess]:
    """Redraw the table until interrupted; return the last rows. Into a file or a pipe, print one after the other."""
    from rich.live import Live
    from rich.text import Text

    try:
        if not sys.stdout.isatty():
            while True:
                print("\n".join(table(rows, notes, gpus)), flush=True)
                time.sleep(interval)
                rows, notes = read()
        with Live(auto_refresh=False, screen=True) as live:
            while True:
                live.update(Text.from_ansi("\n".join(table(rows, notes, gpus))), refresh=True)
                time.sleep(interval)
                rows, notes = read()
    except KeyboardInterrupt:
        return rows


def table(rows: Sequence[GpuProcess], notes: Sequence[str], gpus: Sequence[Gpu]) -> list[str]:
    """Return the table, and below it the reason and the remedy of each process that is not local, and the notes.

    gpus: of the machine, in PCI order.
    """
    lines = []
    for row in rows:
        found = row.assessment
        if found.locality.value != "local":
            remedy = f"; {found.remedy}" if found.remedy else ""
            lines.append(f"{row.pid}: {found.locality.value}: {found.reason}{remedy}")
    lines += [f"note: {note}" for note in notes]
    title = f"Processes on GPUs, {time.strftime('%H:%M:%S')}"
    cells = [_cells(row, gpus) for row in rows]
    grid = _output.grid(title, _COLUMNS, cells, optional=_OPTIONAL) if rows else ["no process uses a GPU here"]
    return [*grid, *(line for text in dict.fromkeys(lines) for line in _output.wrapped(_output.printable(text)))]


def _cells(row: GpuProcess, gpus: Sequence[Gpu]) -> tuple[object, ...]:
    state, width = row.state, _output.terminal_width()
    shown = _COMMAND if width is None or width >= _NARROW else _SHORT
    text = row.worker or " ".join(row.command)
    policies = [f"{policy} ({count})" for policy, count in state.policies.items()]
    return (
        row.pid,
        row.user,
        text if len(text) <= shown else text[: shown - 1] + "…",
        f"phys:{gpus.index(row.gpu)}" if row.gpu in gpus else None,
        row.gpu or row.use.gpu,
        row.gpu.node if row.gpu else None,
        row.use.evidence.value,
        state.cpus or None,
        None if row.threads_inside is None else f"{row.threads_inside} of {len(state.threads)}",
        ", ".join(policies) if len(policies) > 1 else "".join(map(str, state.policies)),
        _memory(row),
        f"{row.bound.strategy} since {time.strftime('%b %d %H:%M', time.localtime(row.bound.since))}"
        if row.bound
        else None,
        row.assessment.locality.value,
    )


def _memory(row: GpuProcess) -> str:
    """Return the bytes of a process on each node, and their margin if they are estimated."""
    from affinity.kernel.pages import share_error

    resident = row.state.resident
    if resident is None:
        return ""
    nodes = " ".join(f"{node}:{_size(size)}" for node, size in sorted(resident.items()) if size)
    return f"{nodes} ±{share_error(resident.sampled):.0%}" if resident.sampled else nodes


def _size(size: int) -> str:
    return f"{size / 2**30:.1f}G" if size >= 2**30 else f"{size / 2**20:.1f}M"
