"""The simulated kernel is held to a real one with several nodes: the host's own tests, on machines it is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from test_fakehost import (  # noqa: E402
    test_the_simulation_answers_every_call_as_linux_does as test_the_simulation_answers_every_call_as_linux_does,
    test_the_simulation_confines_as_a_linux_cpuset_does as test_the_simulation_confines_as_a_linux_cpuset_does,
)

pytestmark = pytest.mark.machine("memoryless")
