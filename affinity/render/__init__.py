"""Rendering of values: JSON, a drawing in the terminal, SVG, pages of HTML."""

from __future__ import annotations

from collections.abc import Sequence


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or the plural."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def spread(samples: Sequence[float]) -> str:
    """Return the median of measured samples, and half the distance of the least from the greatest."""
    from statistics import median

    return f"{median(samples):.3g} ± {(max(samples) - min(samples)) / 2:.2g}"
