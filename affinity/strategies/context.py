"""`BoundContext`: a `multiprocessing` context whose every process is started bound.

The context holds the placement, so pools and executors that start workers later, from their own threads, start them
bound as well.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import context
from typing import Any

from affinity.strategies.start import Prepare, install_hooks, start_prepared


class BoundContext(context.BaseContext):
    """The context that `affinity.get_context()` returns: `multiprocessing.get_context(method)` with bound workers.

    `Process` is a factory: pass `target`. A subclass of `multiprocessing.Process` that overrides `run` is started
    inside `affinity.spawning()` instead.
    """

    def __init__(self, method: str, prepare: Prepare) -> None:
        multiprocessing.get_context(method)  # ValueError if the method is unknown or not available
        self._name = method
        self._prepare = prepare
        install_hooks()

    def get_context(self, method: str | None = None) -> Any:
        """Return this context, or one of another start method with the same placement."""
        return self if method in (None, self._name) else BoundContext(str(method), self._prepare)

    def Process(self, *args: Any, **kwargs: Any) -> Any:
        worker = _PROCESSES[self._name](*args, **kwargs)
        worker._affinity_prepare = self._prepare
        return worker


def _popen(worker: Any) -> Any:
    prepare = worker.__dict__.pop("_affinity_prepare")  # before the object is pickled
    try:
        return start_prepared(worker, prepare, _BASES[worker._start_method]._Popen)
    except BaseException:
        worker._affinity_prepare = prepare  # the start may be tried again
        raise


class SpawnProcess(context.SpawnProcess):
    _Popen = staticmethod(_popen)  # type: ignore[assignment]


class ForkProcess(context.ForkProcess):
    _Popen = staticmethod(_popen)  # type: ignore[assignment]


class ForkServerProcess(context.ForkServerProcess):
    _Popen = staticmethod(_popen)  # type: ignore[assignment]


_PROCESSES: dict[str, Any] = {"spawn": SpawnProcess, "fork": ForkProcess, "forkserver": ForkServerProcess}
_BASES: dict[str, Any] = {
    "spawn": context.SpawnProcess,
    "fork": context.ForkProcess,
    "forkserver": context.ForkServerProcess,
}
