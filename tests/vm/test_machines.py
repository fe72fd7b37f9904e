"""The guest tests, each in each of its machines: see conftest.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .guests import Visits


def test_guest(
    guest_machine: str,
    guest_test: str,
    visits: Visits,
    record_property: Callable[[str, object], None],
) -> None:
    outcome = visits.outcome(guest_machine, guest_test)
    record_property("guest_seconds", round(outcome.seconds, 3))
    for title, text in outcome.sections.items():
        print(f"--- {title} ---\n{text}")
    if outcome.outcome == "failed":
        pytest.fail(outcome.text, pytrace=False)
    if outcome.outcome == "skipped":
        pytest.skip(outcome.text)
    if outcome.outcome == "xfailed":
        pytest.xfail(outcome.text)
