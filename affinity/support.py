"""`Support`: an answer with its reason. "No" is a value, not an exception."""

from __future__ import annotations

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
