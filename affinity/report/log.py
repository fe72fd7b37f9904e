"""Reports to the standard `logging`: logger `affinity`, INFO for a bind, WARNING for a degradation.

No handler is installed. If logging is not configured, its handler of last resort writes warnings to stderr.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from affinity.degradation import Degradation, messages

if TYPE_CHECKING:
    from affinity.launchers.launch import Launch
    from affinity.policies.placement import Placement
    from affinity.report.report import BindReport

_log = logging.getLogger("affinity.report")


def log_report(report: BindReport) -> None:
    """Log one line for the bind, one for each degradation, and one if no node of the worker's GPUs is known."""
    wanted = report.requested
    if wanted is not None and report.launch.gpus and not wanted.nodes and report.reason == wanted.reason:
        why = "; ".join(dict.fromkeys(f"GPU {gpu}: node {gpu.node_reason}" for gpu in report.launch.gpus))
        _log.warning("affinity: not bound: %s", why)
    _log.info("affinity: %s", report.summary)
    log_degradations(report.degradations)
    if not report.satisfied:
        _log.warning("affinity: what was requested is not in force: %s", report.summary)


def describe(strategy: str, placement: Placement, launch: Launch) -> str:
    """Return the part of a line that names strategy, placement and GPUs."""
    gpus = ", ".join(map(str, launch.gpus)) or f"node {placement.nodes}"
    return f"by strategy {strategy}: {placement.summary}, for {gpus}"


def log_start(summary: str, pid: int) -> None:
    """Log one line for a worker that was started."""
    _log.info("affinity: started process %d %s", pid, summary)


@functools.cache
def log_warnings(warnings: tuple[str, ...]) -> None:
    """Log warnings about the environment (`Observation.warnings`), once in a process."""
    for warning in warnings:
        _log.warning("affinity: %s", warning)


def log_degradations(degradations: Iterable[Degradation]) -> None:
    """Log one line for each error."""
    for message in messages(degradations):
        _log.warning("affinity: degraded: %s", message)
