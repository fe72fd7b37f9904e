"""The ladder: bind, preferred, CPUs only, nothing. Each step down is recorded; under `required` there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

from affinity.errors import CannotBind
from affinity.policies.policy import Placement
from affinity.registry import Registry
from affinity.selection.rules import Selection
from affinity.strategies.strategy import AffinityStrategy

if TYPE_CHECKING:
    from affinity.degradation import Degradation

T = TypeVar("T")


@attrs.frozen
class Step(Generic[T]):
    """Where the ladder was left. placement: what was put in force, None for nothing. result: what the attempt gave."""

    strategy: str
    placement: Placement | None
    result: T | None
    given_up: tuple[Degradation, ...]


def descend(
    act: Callable[[AffinityStrategy, Placement], T],
    placement: Placement,
    selection: Selection,
    strategies: Registry[AffinityStrategy],
    *,
    required: bool,
) -> Step[T]:
    """Try each weaker placement, with the chosen strategy and its fallbacks, until one is put in force.

    `act` raises OSError or CannotBind where it is refused. Raises CannotBind where the first placement is
    refused by every strategy and it is required.
    """
    given_up: list[Degradation] = []
    rung: Placement | None = placement
    while rung is not None:
        for name in (selection.strategy, *selection.fallbacks):
            try:
                return Step(name, rung, act(strategies.get(name), rung), tuple(given_up))
            except (OSError, CannotBind) as refused:
                from affinity.degradation import Degradation

                given_up.append(Degradation.of(f"{name}: {rung.words}", refused))
        if required:
            raise CannotBind("required, but refused: " + "; ".join(map(str, given_up)))
        rung = rung.weaker()
    return Step("noop", None, None, tuple(given_up))
