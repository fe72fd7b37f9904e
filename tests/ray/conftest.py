"""Real Ray: one instance a test module, and none that something else on this machine has started."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemas

try:
    import ray.actor  # not `import ray`: where Ray is missing, this very directory would be found as that
    from workers import STAND_INS, running
except ImportError:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def _own_directory() -> Iterator[None]:
    """A directory for Ray of this run's own: in its default one, `ray.init()` finds the Ray of another run.

    Its name is short, for the paths of sockets.
    """
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as directory:
        patch.setenv("RAY_TMPDIR", directory)
        yield


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    """Ray on this machine, with eight placeholder GPUs."""
    with running(**STAND_INS):
        yield


@pytest.fixture
def load_json() -> Callable[..., Any]:
    """`schemas.load`. Ray's workers, which import the modules of tests, do not find `schemas`."""
    return schemas.load


@pytest.fixture
def actors() -> Iterator[Callable[..., Any]]:
    """Make an actor of a class, `actors(cls, *args, num_gpus=1, …)`, that ends with the test."""
    made = []

    def make(cls: type, *args: Any, **options: Any) -> Any:
        made.append(ray.remote(**{"num_gpus": 1, "num_cpus": 0, **options})(cls).remote(*args))
        return made[-1]

    yield make
    for actor in made:
        ray.kill(actor)
