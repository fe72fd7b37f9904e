"""`LauncherContract`: requirements of every launcher, as a test class to inherit.

class TestMine(LauncherContract):
    worker = {"ACME_JOB": "7", "ACME_LOCAL_RANK": "1", "ACME_LOCAL_SIZE": "4"}

    def make(self):
        return AcmeLauncher()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeVar

import pytest

from affinity import LaunchMode, UsageError
from affinity.launchers import EnvironmentLauncher, Launch, Launcher
from affinity.testing.fakehost import FakeHost

#: A case that is not for every launcher has `applies`; it is not collected for other launchers (see pytest_plugin).
Case = TypeVar("Case", bound=Callable[..., None])

#: Variables that any process may have.
PLAIN = {"HOME": "/root", "LANG": "C.UTF-8", "CUDA_VISIBLE_DEVICES": "0"}


def _of_workers(case: Case) -> Case:
    """Mark a case of the launchers that are recognised by variables."""
    case.applies = lambda contract: bool(contract.worker)  # type: ignore[attr-defined]
    return case


def _of_ranks(case: Case) -> Case:
    """Mark a case of the launchers whose variables are a local rank and size."""
    case.applies = lambda contract: isinstance(contract().make(), EnvironmentLauncher)  # type: ignore[attr-defined]
    return case


class LauncherContract(ABC):
    """Test cases of a launcher.

    worker: the variables that it sets for one of its workers, {} if it is not recognised by variables.
    """

    worker: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def make(self) -> Launcher:
        """Return a new launcher."""

    def test_it_declares_its_mode_and_its_distance(self) -> None:
        """`mode` is a LaunchMode of a process that runs, `distance` a whole number."""
        launcher = self.make()
        assert isinstance(launcher.mode, LaunchMode)
        assert launcher.mode is not LaunchMode.COMMAND
        assert isinstance(launcher.distance, int)

    def test_a_process_that_it_did_not_start_is_not_recognised(self) -> None:
        """Without its variables, `detect` and `starter` return None."""
        for environ in ({}, PLAIN):
            assert self._detect(environ) is None
            assert self.make().starter(FakeHost(environ=environ).kernel) is None

    @_of_workers
    def test_its_worker_is_recognised_with_a_reason(self) -> None:
        """The launch has its mode, a local rank below the local size, and GPU references or None."""
        launch = self._detect({**PLAIN, **self.worker})
        assert launch is not None
        assert (launch.mode, launch.gpus) == (self.make().mode, ())
        assert launch.reason.strip()
        assert launch.local_rank is None or launch.local_rank >= 0
        assert None in (launch.local_rank, launch.local_size) or launch.local_rank < launch.local_size  # type: ignore
        assert launch.assigned is None or all(isinstance(reference, str) for reference in launch.assigned)

    @_of_workers
    def test_variables_that_the_starter_has_too_do_not_count(self) -> None:
        """A process that a worker starts inherits them, and is no worker."""
        assert self._detect({**PLAIN, **self.worker}, own=PLAIN) is None

    @_of_workers
    def test_detect_and_starter_change_nothing(self) -> None:
        """The process and its variables are the same afterwards."""
        fake = FakeHost(environ={**PLAIN, **self.worker})
        before = dict(fake.kernel.environ)
        self.make().starter(fake.kernel)
        self.make().detect(before, fake.kernel)
        assert dict(fake.kernel.environ) == before
        assert not fake.kernel.changes

    @_of_ranks
    @pytest.mark.parametrize("text", ["one", "-1", "1.0", "\uff11"])
    def test_a_rank_that_is_no_number_is_an_error_that_names_the_variable(self, text: str) -> None:
        """UsageError; rank 0 is not assumed."""
        launcher = self.make()
        assert isinstance(launcher, EnvironmentLauncher)
        with pytest.raises(UsageError, match=f"{launcher.rank}='{text}'"):
            self._detect({**self.worker, launcher.rank: text})

    def _detect(self, environ: Mapping[str, str], own: Mapping[str, str] | None = None) -> Launch | None:
        return self.make().detect(environ if own is None else own, FakeHost(environ=environ).kernel)
