"""The simulated kernel is held to a real one with several nodes: the host's own tests, on machines it is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import test_fakehost

pytestmark = pytest.mark.machine("memoryless", "two-package-backports", "arm-two-package", "arm-16k")


test_every_call = test_fakehost.test_the_simulation_answers_every_call_as_linux_does
