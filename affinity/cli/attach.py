"""`affinity attach`: bind processes that run, from outside."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from affinity.cli import _options, _output, _validate
from affinity.degradation import messages
from affinity.render import count_of

if TYPE_CHECKING:
    from affinity.external import Attachment
    from affinity.host import Host
    from affinity.observe import GpuReference
    from affinity.report.processes import GpuProcess
    from affinity.report.report import BindReport
    from affinity.settings import Settings


@click.command()
@_options.gpu
@_options.node
@_options.policy
@click.option("--no-pages", is_flag=True, help="Leave pages touched before where they are.")
@click.option("--widen", is_flag=True, help="Its CPU mask is no limit: any CPU of its cpuset may be used.")
@click.option("--dry-run", is_flag=True, help="Show what would be done. Changes nothing.")
@click.option("--undo", is_flag=True, help="Restore the CPU masks from before.")
@click.option("--all", "every", is_flag=True, help="Every process that `affinity ps` shows as misplaced.")
@click.option("--all-users", is_flag=True, help="With --all: processes of every user.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@_options.as_json
@click.argument("pids", nargs=-1, type=click.IntRange(min=1), metavar="[PID...]")
def command(
    *,
    pids: tuple[int, ...],
    gpu: str | None,
    node: int | None,
    policy: str | None,
    no_pages: bool,
    widen: bool,
    dry_run: bool,
    undo: bool,
    every: bool,
    all_users: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Bind processes that run to the CPUs and the memory of a GPU's node, or of a given node.

    All of their threads, and their private pages. Without --gpu and --node, the GPUs that a process uses, else those
    that its environment or its launcher gives it. What cannot be set from outside is reported with what helps.
    """
    import attrs

    from affinity.errors import AffinityError, UsageError
    from affinity.host import Host

    if not every and (all_users or yes or not pids):
        raise UsageError("no process is given: expected its PID, or --all" if not pids else
                         "--all-users and --yes go with --all: PIDs are bound as given")  # fmt: skip
    if every and (pids or gpu is not None or node is not None or widen or undo):
        raise UsageError("--all binds each process to its own GPU, within its limits: give a PID to use --gpu, --node, "
                         "--widen or --undo")  # fmt: skip
    host = Host.live()
    _validate.one_place(gpu, node)
    if undo and (gpu, node, policy, no_pages, widen, dry_run) != (None, None, None, False, False, False):
        raise UsageError("--undo restores what was there before: no other option but --json goes with it")
    settings = _validate.settings(policy)
    if no_pages:
        settings = attrs.evolve(settings, migrate=False)
    found: list[dict[str, Any]] = []
    status = 0
    named: dict[int, tuple[str, GpuReference]] = dict.fromkeys(pids, ("", gpu))
    if every:
        rows = _not_local(host, settings, None if all_users else os.geteuid(), quiet=as_json)
        found += [{"pid": row.pid, "left_alone": row.left_alone} for row in rows if row.left_alone]
        named = {row.pid: (row.identity, [str(gpu.pci) for gpu in row.gpus]) for row in rows if not row.left_alone}
        _confirm(len(named), yes=yes or dry_run)
    for pid, (identity, its_gpu) in named.items():
        try:
            found.append(_act(pid, host, its_gpu, node, settings, identity=identity, widen=widen, dry_run=dry_run,
                              undo=undo, quiet=as_json))  # fmt: skip
        except AffinityError as error:
            from affinity.cli._errors import report_error

            found.append({"pid": pid, "error": str(error)})
            status = max(status, report_error(error))
    if as_json:
        _output.json(found)
    sys.exit(status)


def _not_local(host: Host, settings: Settings, user: int | None, *, quiet: bool) -> list[GpuProcess]:
    """Return a row for each process of `affinity ps` that is not local; print the table unless `quiet`."""
    from affinity.cli import ps
    from affinity.report.locality import Locality
    from affinity.report.processes import GpuProcesses

    reader = GpuProcesses.of(host, settings)
    uses, notes = reader.uses()
    rows = reader.rows(uses, user=user)
    one_each = {(row.pid, row.use.is_here): row for row in rows if row.assessment.locality is not Locality.LOCAL}
    if not quiet:
        print("\n".join(ps.table(rows, (*reader.notes, *notes), reader.gpus)))
        _output.lines("left alone", (f"{row.pid}: {row.left_alone}" for row in one_each.values() if row.left_alone))
    return list(one_each.values())


def _confirm(count: int, *, yes: bool) -> None:
    """Ask whether to bind so many processes. Raise UsageError if there is no terminal to ask at."""
    from affinity.errors import UsageError

    if not count or yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{count_of(count, 'process')} to bind, and there is no terminal to ask at: repeat with "
                         "--yes, or with --dry-run to see more")  # fmt: skip
    click.confirm(f"Bind {count_of(count, 'process')}?", abort=True, err=True)


def _act(
    pid: int,
    host: Host,
    gpu: GpuReference,
    node: int | None,
    settings: Settings,
    *,
    identity: str,
    widen: bool,
    dry_run: bool,
    undo: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Act on one process; print what came of it unless `quiet`; return it in the shape of `--json`."""
    from affinity import external
    from affinity.render import serialize

    if undo:
        now = external.undo(pid, host=host)
        if not quiet:
            print(f"process {pid}: CPUs {now.threads[now.caller]} as before, {len(now.threads)} threads; "
                  "pages stay where they are")  # fmt: skip
        return {"pid": pid, "undone": True, "masks": serialize.masks(now.threads)}
    if dry_run:
        process = external.find_process(pid, host, identity)
        made = external.prepare(process, host, gpu=gpu, node=node, settings=settings, widen=widen)
        if not quiet:
            _print_plan(made)
        return {"pid": pid, **serialize.attachment(made)}
    report = external.attach_unlogged(
        pid, gpu=gpu, node=node, settings=settings, host=host, widen=widen, identity=identity
    )
    if not quiet:
        _print_report(pid, report)
    return {"pid": pid, **serialize.report(report)}


def _print_plan(made: Attachment) -> None:
    planned, now = made.planned, made.before
    print(f"process {made.process.pid}: {planned.problem or (planned.placement and planned.placement.summary)}")
    print(f"  strategy {planned.selection.strategy}: {planned.selection.reason}")
    outside = sum(not mask <= planned.placement.cpus for mask in now.threads.values()) if (
        planned.placement is not None and planned.placement.cpus is not None) else 0  # fmt: skip
    print(f"  {len(now.threads)} threads, {outside} of them may run on other CPUs")
    if now.resident is not None:
        print("  memory: " + ", ".join(f"node {n} {size >> 20} MiB" for n, size in sorted(now.resident.items())))
    _output.lines("  not possible from outside", messages(made.obstacles))
    _output.lines("  note", planned.launch.notes)


def _print_report(pid: int, report: BindReport) -> None:
    print(f"process {pid}: {report.summary}")
    threads = len(report.observed.threads)
    print(f"  {threads - report.unbound_threads} of {threads} threads on these CPUs only")
    if report.outcome.skipped:
        print(f"  {report.outcome.skipped} threads have a CPU mask of their own and keep it")
    share = report.local_share
    if share is not None:
        print(f"  {share:.1%} of its own pages are on its nodes")
    _output.lines("  degraded", messages(report.degradations))
    _output.lines("  note", report.launch.notes)
