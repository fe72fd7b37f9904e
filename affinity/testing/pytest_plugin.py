"""Pytest plugin: fixtures `machine`, `fake_host`, `installed_host`; a drawing of the machine if their test fails.

    @pytest.mark.affinity_machines("dgx-h100", "gb200")
    def test_my_policy(fake_host):
        ...

`machine` is an `affinity.testing.Machine`, `fake_host` a new `FakeHost` of it, `installed_host` the same one, on which
`affinity.bind()` and every other call without `host=` acts during the test. A test with one of them runs once for each
machine of its closest marker, or for every named machine without a marker. The plugin is loaded in every pytest run of
an environment that has the package, so it imports nothing expensive before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from affinity.testing import FakeHost, Machine

MARKER = "affinity_machines"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}(*names): the named machines that `machine` and its hosts run on")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    found = metafunc._arg2fixturedefs.get("machine", ())
    if not found or found[-1].func.__module__ != __name__:
        return  # no `machine`, or another project's fixture of that name
    from affinity.testing import machines

    marker = metafunc.definition.get_closest_marker(MARKER)
    names = marker.args if marker is not None else machines.names()
    metafunc.parametrize("machine", [pytest.param(name, id=name) for name in names], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the cases of a contract that do not apply to a plugin, instead of skipping them."""
    others = [
        i
        for i in items
        if not getattr(getattr(i, "function", None), "applies", lambda _: True)(getattr(i, "cls", None))
    ]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Machine:
    """Return the record of a named machine; `machine.topology()` is its topology."""
    from affinity.testing import machines

    return machines.get(request.param)


@pytest.fixture
def fake_host(machine: Machine) -> FakeHost:
    """Return a process on the machine, with a simulated kernel."""
    from affinity.testing import FakeHost

    return FakeHost(machine)


@pytest.fixture
def installed_host(fake_host: FakeHost) -> Iterator[FakeHost]:
    """Return `fake_host`, on which every call without `host=` acts until the test ends; see FakeHost.installed."""
    with fake_host.installed():
        yield fake_host


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        used = getattr(item, "funcargs", {})
        shown = used.get("fake_host") or used.get("machine")
        if type(shown).__module__.startswith("affinity.testing"):
            report.sections.append(("affinity: the machine", str(shown)))
