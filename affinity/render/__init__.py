"""Rendering of values: JSON, a drawing in the terminal, SVG, pages of HTML."""

from __future__ import annotations


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or the plural."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
