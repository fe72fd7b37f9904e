"""`Support`: an answer with its reason. "No" is a value, not an exception."""

from __future__ import annotations

from collections.abc import Callable

import attrs


@attrs.frozen
class Support:
    """ok: whether it can be done here; reason: why, or why not and what to do about it."""

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
    """A plugin's answer. One that raises, or answers something else, cannot act: its mistake stops no worker."""
    try:
        answer = supports(*arguments)
    except Exception as mistake:
        return Support.no(f"its supports() raised {type(mistake).__name__}: {mistake}")
    return answer if isinstance(answer, Support) else Support.no(f"its supports() gave {answer!r}, expected Support")
