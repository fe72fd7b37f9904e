"""The ladder: bind, preferred, CPUs only, nothing. Each step down is recorded; under `required` there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

from affinity.errors import BindError
from affinity.policies.placement import Placement
from affinity.registry import Registry
from affinity.selection.rules import Selection
from affinity.strategies.strategy import AffinityStrategy

if TYPE_CHECKING:
    from affinity.degradation import Degradation

T = TypeVar("T")


@attrs.frozen
class Applied(Generic[T]):
    """Where the ladder was left. placement: what was put in force, None for nothing. result: what the attempt gave."""

    strategy: str
    placement: Placement | None
    result: T | None
    degradations: tuple[Degradation, ...]


def apply(
    attempt: Callable[[AffinityStrategy, Placement], T],
    placement: Placement,
    selection: Selection,
    strategies: Registry[AffinityStrategy],
    *,
    required: bool,
) -> Applied[T]:
    """Try each weaker placement, with the chosen strategy and its fallbacks, until one is put in force.

    `act` raises OSError or BindError where it is refused. Raises BindError where the first placement is
    refused by every strategy and it is required.
    """
    degradations: list[Degradation] = []
    rung: Placement | None = placement
    while rung is not None:
        for name in (selection.strategy, *selection.fallbacks):
            try:
                return Applied(name, rung, attempt(strategies.get(name), rung), tuple(degradations))
            except (OSError, BindError) as refused:
                from affinity.degradation import Degradation

                degradations.append(Degradation.of(f"{name}: {rung.summary}", refused))
        if required:
            raise BindError("required, but refused: " + "; ".join(map(str, degradations)))
        rung = rung.weaker()
    return Applied("noop", None, None, tuple(degradations))
