"""`Support`: yes or no with a reason, as a value instead of an exception."""

from __future__ import annotations

from collections.abc import Callable

import attrs


@attrs.frozen
class Support:
    """Whether an action is supported. ok: yes or no. reason: why, or why not and what to do."""

    ok: bool
    reason: str

    def __bool__(self) -> bool:
        return self.ok

    @classmethod
    def yes(cls, reason: str = "") -> Support:
        return cls(True, reason)

    @classmethod
    def no(cls, reason: str) -> Support:
        return cls(False, reason)


def call_supports(supports: Callable[..., object], *arguments: object) -> Support:
    """Return the result of a plugin's `supports`. An error or another type counts as no, and stops no worker."""
    try:
        support = supports(*arguments)
    except Exception as error:
        return Support.no(f"its supports() raised {type(error).__name__}: {error}")
    if isinstance(support, Support):
        return support
    return Support.no(f"its supports() returned {support!r}, expected Support")
