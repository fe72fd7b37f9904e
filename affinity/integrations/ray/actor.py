"""Inside one Ray worker: which GPUs are its own, and binding an actor or a task in one line.

By the time an actor's `__init__` runs, its process has about twenty threads and has touched memory anywhere, so the
strategy is `libnuma`: every thread, and the pages too. Threads that Ray starts for methods later (a threaded actor's
pool, its concurrency groups) are children of threads that are bound by then and inherit the binding.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, overload

from affinity.errors import BindError, UsageError

if TYPE_CHECKING:
    from typing import Unpack

    from affinity.observe import GpuReference
    from affinity.report.report import BindReport
    from affinity.settings import Settings

T = TypeVar("T", bound=Callable[..., Any])

_report: BindReport | None = None


class Where(TypedDict, total=False):
    """Arguments of `affinity.bind`, all optional: without them the GPUs are those that Ray gave this worker."""

    gpu: GpuReference
    node: int
    settings: Settings


def accelerator_ids() -> list[str] | None:
    """The GPUs Ray gave the running actor or task, in Ray's words; None where this process is no Ray worker.

    Strings: positions in the node's own numbering (`3`), or what the raylet's CUDA_VISIBLE_DEVICES said (`GPU-…`,
    `3`). Right also where Ray leaves the variable alone (RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES) and where
    several workers share a GPU. Ray keeps no order among them. Empty where no GPU was asked for.
    """
    context = worker_context()
    return None if context is None else sorted(context.get_accelerator_ids().get("GPU", []))


def worker_context() -> Any:
    """Ray's runtime context; None where this process is no Ray worker: a driver, or a worker's child."""
    import ray

    if not ray.is_initialized() or _is_fork():
        return None
    context = ray.get_runtime_context()
    return context if context.worker.mode == ray.WORKER_MODE else None


_IMPORTED_BY = os.getpid()


def _is_fork() -> bool:
    """Whether this is a fork of a worker: it inherits Ray's state, but a call through it would hang for ever.

    One that was forked before this module was there is known by its parent: the same program, started by the same
    raylet, while a worker's parent is the raylet, or what a runtime environment puts between them.
    """
    if os.getpid() != _IMPORTED_BY or len(os.listdir("/proc/self/task")) == 1:
        return True
    raylet = f"RAY_RAYLET_PID={os.environ.get('RAY_RAYLET_PID')}".encode()
    parent = f"/proc/{os.getppid()}"
    try:
        with open(f"{parent}/environ", "rb") as environ:
            return raylet in environ.read().split(b"\0") and os.path.samefile(f"{parent}/exe", "/proc/self/exe")
    except OSError:  # another user's, or not in this container
        return False


@overload
def bound(target: T, /) -> T: ...
@overload
def bound(**where: Unpack[Where]) -> Callable[[T], T]: ...
def bound(target: Any = None, /, **where: Any) -> Any:
    """Decorator, below `@ray.remote`: this actor class, or this task, runs where its GPU is.

        @ray.remote(num_gpus=1)
        @bound
        class Scheduler: ...

    A class binds before its `__init__` begins, and stays bound: its process ends with it. A task binds before its
    body and gives everything back after it, because Ray hands its process to the next task. A class derived from a
    bound one is decorated too, else what its `__init__` does before `super().__init__()` comes too early. Arguments
    and errors as `affinity.bind`; an actor that may not start unbound (`AFFINITY_ENFORCE=required`) fails with
    BindError at its creator.
    """
    if target is None:
        return functools.partial(_bound, **where)
    return _bound(target, **where)


def _bound(target: Any, **where: Unpack[Where]) -> Any:
    if inspect.isclass(target):
        return _bound_class(target, where)
    if inspect.isgeneratorfunction(target):

        @functools.wraps(target)
        def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with _for_this_task(where):
                yield from target(*args, **kwargs)

        return stream
    if inspect.isfunction(target) and not (inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target)):

        @functools.wraps(target)
        def task(*args: Any, **kwargs: Any) -> Any:
            with _for_this_task(where):
                return target(*args, **kwargs)

        return task
    raise UsageError(f"@bound was given {target!r}: expected a class or a plain function; put @ray.remote above @bound")


class _Construction(threading.local):
    """The instance that the calling thread is constructing."""

    instance: object = None


_construction = _Construction()


def _bound_class(cls: type, where: Where) -> type:
    construct = cls.__init__  # type: ignore[misc]

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # Ray pickles it with what it names: keep that small
        with _for_this_instance(self, where):
            construct(self, *args, **kwargs)

    if inspect.isfunction(construct):  # Ray reads the signature through `__wrapped__`, and cannot of object's own
        functools.update_wrapper(__init__, construct)
    cls.__init__ = __init__  # type: ignore[misc]
    return cls


@contextmanager
def _for_this_instance(instance: object, where: Where) -> Iterator[None]:
    from affinity.api import bind

    outer = _construction.instance
    if outer is not instance:  # else a derived class, bound as well, has come here through super()
        bind(**where)
    _construction.instance = instance
    try:
        yield
    finally:
        _construction.instance = outer


@contextmanager
def _for_this_task(where: Where) -> Iterator[None]:
    from affinity.api import bind

    made = bind(**where)
    try:
        yield
    finally:
        try:
            made.undo()
        except BindError as refused:  # a cpuset that was narrowed meanwhile; what the task gave is worth more
            warnings.warn(f"the next task of this worker may start bound: {refused}", RuntimeWarning, stacklevel=2)


def report() -> BindReport | None:
    """What the last `affinity.bind()` of this Ray worker found; None where there is none that is not undone."""
    return _report


def record(made: BindReport | None) -> None:
    """Called by `affinity.bind()` in a Ray worker: keeps the report, and tells the cluster of an actor's.

    Also where a bind is undone: with the report before it, or None.

    The cluster keeps it in its key-value store, for `audit`. A store that refuses is a warning: the worker is bound.
    """
    global _report
    _report = made
    from affinity.integrations.ray.store import tell

    try:
        tell(made)
    except Exception as error:  # whatever Ray raises, bookkeeping must not stop a worker that is bound
        warnings.warn(
            f"bound, but `affinity ray audit` will not list this actor: {error}", RuntimeWarning, stacklevel=3
        )
