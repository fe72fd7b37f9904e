"""Bind the actors and tasks of Ray, unmodified: what a worker installs at its start under `AFFINITY_AUTOSTART=1`.

Ray assigns GPUs to a worker that runs already. So two methods of Ray's FunctionActorManager are replaced, when Ray
imports it: an actor's process binds before its class is loaded, and with it the modules that it needs; a task is bound
around its body, because Ray runs the next task in the same process. Only actors and tasks with a GPU are bound.
Source: ray/_private/function_manager.py and `execute_task` of python/ray/_raylet.pyx, Ray 2.44 and 2.60.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from affinity.integrations.engine import Hook, bind_worker, errors_logged, is_on, replace, when_imported
from affinity.integrations.ray import actor
from affinity.integrations.ray.context import accelerator_ids, worker_context
from affinity.kernel.linux import THIS_PROCESS

_MODULE = "ray._private.function_manager"
_ACTORS = ("FunctionActorManager.load_actor_class", ("self", "job_id", "actor_creation_function_descriptor"))
_TASKS = ("FunctionActorManager.get_execution_info", ("self", "job_id", "function_descriptor"))


def install() -> None:
    """Replace the methods as soon as Ray has imported their module; importing it here would come before its paths."""
    when_imported(_MODULE, _replace_methods)


def _replace_methods() -> None:
    replace(Hook(_MODULE, *_ACTORS, lost="actors are not bound by AFFINITY_AUTOSTART"), _loading)
    replace(Hook(_MODULE, *_TASKS, lost="tasks are not bound by AFFINITY_AUTOSTART"), _executing)


def _loading(load_actor_class: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `load_actor_class` that binds first.

    Ray calls it also for the handle of another actor, in any process. If binding is required and impossible, Ray is
    given a class that raises the error in `__init__`, where the creator of the actor receives it.
    """

    def load(manager: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            with errors_logged("this actor is unbound"):
                context = worker_context()
                if context is not None and context.get_actor_id() is not None:
                    _bind_actor()
        except Exception as error:
            refused = _refused_class(error)
            manager._load_actor_class_from_gcs = lambda *_: refused
            manager._load_actor_class_from_local = manager._load_actor_class_from_gcs
        return load_actor_class(manager, *args, **kwargs)

    return load


@functools.cache
def _bind_actor() -> None:
    """Bind this process for its actor, once."""
    if _is_to_be_bound():
        from affinity.report.restore import current_report

        bind_worker()
        actor.bound_at_start = current_report() is not None


def _refused_class(error: Exception) -> type:
    class Refused:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise error

        async def unused(self) -> None:
            """Make the class one that Ray accepts for an asyncio actor."""

    return Refused


def _executing(get_execution_info: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `get_execution_info` that gives the function of a task bound around its body."""

    def get(manager: Any, job_id: Any, function_descriptor: Any) -> Any:
        info = get_execution_info(manager, job_id, function_descriptor)
        with errors_logged("this task runs unbound"):
            if not function_descriptor.is_actor_method():
                info = info._replace(function=_task(info.function))
        return info

    return get


def _task(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def task(*args: Any, **kwargs: Any) -> Any:
        if inspect.isgeneratorfunction(function):
            return _stream(function(*args, **kwargs))
        with _bound():
            result = function(*args, **kwargs)
        return _stream(result) if inspect.isgenerator(result) else result

    return task


def _stream(values: Iterator[Any]) -> Iterator[Any]:
    with _bound():
        yield from values


@contextmanager
def _bound() -> Iterator[None]:
    """Bind this process for the task of the block, if the task was given a GPU."""
    with ExitStack() as block:
        with errors_logged("this task runs unbound"):
            if _is_to_be_bound():
                block.enter_context(actor.bound_task({}))
        yield


def _is_to_be_bound() -> bool:
    """Return whether Ray assigned GPUs to this worker, and binding is not off."""
    return bool(accelerator_ids(THIS_PROCESS)) and is_on("Ray")
