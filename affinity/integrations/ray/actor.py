"""`@bound`: bind an actor or a task of Ray in one line.

By the time an actor's `__init__` runs, its process has about twenty threads and has touched memory anywhere, so the
strategy is `libnuma`: every thread, and the pages too. Threads that Ray starts for methods later (a threaded actor's
pool, its concurrency groups) are children of threads that are bound by then and inherit the binding.
"""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, overload

from affinity.errors import BindError, UsageError

if TYPE_CHECKING:
    from typing import Unpack

    from affinity.observe import GpuReference
    from affinity.settings import Settings

T = TypeVar("T", bound=Callable[..., Any])


class BindArguments(TypedDict, total=False):
    """Arguments of `affinity.bind`, all optional. Default: the GPUs that Ray assigned to this worker."""

    gpu: GpuReference
    node: int
    settings: Settings


@overload
def bound(target: T, /) -> T: ...
@overload
def bound(**where: Unpack[BindArguments]) -> Callable[[T], T]: ...
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


def _bound(target: Any, **where: Unpack[BindArguments]) -> Any:
    if inspect.isclass(target):
        return _bound_class(target, where)
    if inspect.isgeneratorfunction(target):

        @functools.wraps(target)
        def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with bound_task(where):
                yield from target(*args, **kwargs)

        return stream
    if inspect.isfunction(target) and not (inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target)):

        @functools.wraps(target)
        def task(*args: Any, **kwargs: Any) -> Any:
            with bound_task(where):
                return target(*args, **kwargs)

        return task
    raise UsageError(f"@bound was given {target!r}: expected a class or a plain function; put @ray.remote above @bound")


class _Construction(threading.local):
    """The instance that the calling thread is constructing."""

    instance: object = None


_construction = _Construction()

#: Whether autostart has bound this process for its actor: `@bound` without arguments does not bind it again.
bound_at_start = False


def _bound_class(cls: type, where: BindArguments) -> type:
    construct = cls.__init__  # type: ignore[misc]

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # Ray pickles it with what it names: keep that small
        with _bound_init(self, where):
            construct(self, *args, **kwargs)

    if inspect.isfunction(construct):  # Ray reads the signature through `__wrapped__`, and cannot of object's own
        functools.update_wrapper(__init__, construct)
    cls.__init__ = __init__  # type: ignore[misc]
    return cls


@contextmanager
def _bound_init(instance: object, where: BindArguments) -> Iterator[None]:
    from affinity.api import bind

    outer = _construction.instance
    nested = outer is instance  # a derived class, bound as well, has come here through super()
    if not nested and (where or not bound_at_start):
        bind(**where)
    _construction.instance = instance
    try:
        yield
    finally:
        _construction.instance = outer


@contextmanager
def bound_task(where: BindArguments) -> Iterator[None]:
    from affinity.api import bind

    made = bind(**where)
    try:
        yield
    finally:
        try:
            made.undo()
        except BindError as refused:  # a cpuset that was narrowed meanwhile; what the task gave is worth more
            warnings.warn(f"the next task of this worker may start bound: {refused}", RuntimeWarning, stacklevel=2)
