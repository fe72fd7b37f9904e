"""Makes each guest test a test of the host's, in each of its machines.

A machine is booted once, at the first of its tests, and for the tests that are
selected here only. VM_JOBS states how many machines run at a time, VM_ARCH of which architecture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from . import guests
from .machines import chosen

collect_ignore = ["guest"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "guest_test" not in metafunc.fixturenames:
        return
    try:
        tests = guests.list_tests()
    except guests.ListError as error:
        pytest.fail(f"cannot list the guest tests\n{error}", pytrace=False)
    # Booting takes long: no time limit but the one on the machine.
    limited = metafunc.config.pluginmanager.hasplugin("timeout")
    marks = [pytest.mark.timeout(0)] if limited else []
    metafunc.parametrize(
        ("guest_machine", "guest_test"),
        [
            pytest.param(machine.name, test, id=f"{machine.name}-{test}", marks=marks)
            for machine in chosen()
            for test, machines in tests.items()
            if machine.name in machines
        ],
    )


@pytest.fixture(scope="session")
def visits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[guests.Visits]:
    selected: dict[str, list[str]] = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            params = item.callspec.params
            if "guest_test" in params:
                selected.setdefault(str(params["guest_machine"]), []).append(str(params["guest_test"]))
    jobs = int(os.environ.get("VM_JOBS") or min(2, os.cpu_count() or 1))
    visits = guests.Visits(selected, jobs, tmp_path_factory.mktemp)
    yield visits
    visits.close()
