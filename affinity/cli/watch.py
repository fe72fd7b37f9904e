"""`affinity watch`: bind the processes that use a GPU as they come."""

from __future__ import annotations

import gc
import logging
import os
import signal

import click

from affinity.cli import _options, _validate
from affinity.render import count_of


@click.command()
@click.option("--all-users", is_flag=True, help="Processes of every user, which takes root.")
@click.option("--interval", default=1.0, show_default=True, type=click.FloatRange(min=0.1), metavar="SECONDS",
              help="Time between two looks.")  # fmt: skip
@_options.policy
@click.option("--dry-run", is_flag=True, help="Log what would be done. Changes no process.")
def command(*, all_users: bool, interval: float, policy: str | None, dry_run: bool) -> None:
    """Bind each process that begins to use a GPU, once, until SIGTERM or Ctrl-C. What is bound stays bound.

    A process that something else has bound is left alone. One line on stderr for each process.
    """
    from affinity.kernel.privileges import drop_capabilities
    from affinity.report.processes import GpuProcesses
    from affinity.watch import Watch

    gc.enable()  # which the command disables for its start
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # they are looked at between two processes alone
    log = logging.getLogger("affinity")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    try:
        drop_capabilities()
    except OSError as refused:
        log.warning("affinity: capabilities that are not needed are kept: %s", refused)
    reader = GpuProcesses.of(settings=_validate.settings(policy))
    reader.check_policy()
    whose = "all users" if all_users else f"user {os.geteuid()}"
    gpus = count_of(len(reader.gpus), "GPU")
    log.info("affinity: watching %s every %g s, processes of %s, policy %s%s", gpus, interval, whose,
             reader.settings.policy, ", dry run" if dry_run else "")  # fmt: skip
    Watch(reader, None if all_users else os.geteuid(), dry_run).run(
        interval, lambda seconds: signal.sigtimedwait(ends, seconds) is not None
    )
    log.info("affinity: watch has ended; what is bound stays bound")
