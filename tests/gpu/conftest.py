"""Without `nvidia-smi`, or without a GPU, the tests of this folder are skipped with that reason."""

from __future__ import annotations

import time

import pytest
import smi


def pytest_report_header() -> list[str]:
    """The date, cards and driver: what the output of a run is kept with."""
    try:
        cards = smi.cards()
    except RuntimeError as reason:
        return [f"no NVIDIA GPU: {reason}"]
    models = ", ".join(dict.fromkeys(card.name for card in cards))
    return [f"{time.strftime('%Y-%m-%d')}: {len(cards)} x {models}, driver {cards[0].driver}"]


@pytest.fixture(scope="session")
def cards() -> list[smi.Card]:
    """The GPUs, in the order of `nvidia-smi`."""
    try:
        return smi.cards()
    except RuntimeError as reason:
        pytest.skip(f"no NVIDIA GPU: {reason}")
