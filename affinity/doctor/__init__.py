"""Why binding is refused or has no effect here: a table of checks, each a value with a verdict and one remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from affinity.doctor import calls, machine, places, software
from affinity.doctor.check import Check as Check
from affinity.doctor.check import Subject as Subject
from affinity.doctor.check import Verdict as Verdict

CHECKS: tuple[Callable[[Subject], Iterator[Check]], ...] = (
    software.check_container,
    calls.check_calls,
    calls.check_policy,
    places.check_allowed,
    places.check_nodes,
    places.check_gpus,
    machine.check_settings,
    machine.check_memory,
    machine.check_mounts,
    software.check_tools,
    software.check_plugins,
    software.check_variables,
    software.check_engines,
)


def examine(subject: Subject) -> tuple[Check, ...]:
    """Return every check that applies to the machine, the worst first."""
    severity = list(Verdict)
    return tuple(sorted((c for check in CHECKS for c in check(subject)), key=lambda c: severity.index(c.verdict)))
