"""Why binding is refused or has no effect here: a table of checks, each a value with a verdict and one remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from affinity.doctor import calls, machine, places, software
from affinity.doctor.check import Check as Check
from affinity.doctor.check import Subject as Subject
from affinity.doctor.check import Verdict as Verdict

CheckFunction = Callable[[Subject], Iterator[Check]]

CHECKS: tuple[CheckFunction, ...] = (
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
)


def examine(subject: Subject, checks: Sequence[CheckFunction] = CHECKS) -> tuple[Check, ...]:
    """Return what these functions found, the worst first. A function yields nothing where it does not apply."""
    severity = list(Verdict)
    return tuple(sorted((c for check in checks for c in check(subject)), key=lambda c: severity.index(c.verdict)))
