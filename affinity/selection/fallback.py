"""The weaker placements: bind, preferred, CPUs only, nothing. Each step is recorded; `required` allows none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import attrs

from affinity.degradation import Degradation, messages
from affinity.errors import BindError
from affinity.policies.placement import Placement
from affinity.registry import Registry
from affinity.selection.rules import Selection
from affinity.strategies.strategy import AffinityStrategy

T = TypeVar("T")


@attrs.frozen
class Applied(Generic[T]):
    """Result of `apply`. placement: the one put in force, None for none. result: the return value of the attempt."""

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

    `attempt` raises OSError or BindError if a placement is refused. Raise BindError if `required` and every strategy
    refuses the first placement.
    """
    degradations: list[Degradation] = []
    current: Placement | None = placement
    while current is not None:
        for name in (selection.strategy, *selection.fallbacks):
            try:
                return Applied(name, current, attempt(strategies.get(name), current), tuple(degradations))
            except (OSError, BindError) as refused:
                degradations.append(Degradation.of(f"{name}: {current.summary}", refused))
        if required:
            raise BindError("required, but refused: " + "; ".join(messages(degradations)))
        current = current.weaker()
    return Applied("noop", None, None, tuple(degradations))
