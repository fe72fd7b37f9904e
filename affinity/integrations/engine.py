"""What the plugins of serving engines share: starts and binds that log their errors, and functions to replace.

An error is a line in the engine's log and the worker is unbound; under `AFFINITY_ENFORCE=required` it is raised.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from affinity.api import bind, spawning
from affinity.errors import AffinityError, SettingsError
from affinity.settings import Settings
from affinity.variables import ALIASES, VARIABLES

if TYPE_CHECKING:
    from affinity.observe import GpuReference

log = logging.getLogger("affinity.integrations")


@functools.cache
def is_on(engine: str) -> bool:
    """Return whether the workers of this engine are to be bound; log it once.

    False after an error in the settings, and with `AFFINITY_AUTO=0`. Raise SettingsError under `required`.
    """
    on = False
    with errors_logged(f"{engine} runs unbound"):
        on = Settings.from_environ(os.environ).auto
    if on:
        log.info("affinity: %s: each worker is bound to the NUMA node of its GPU; AFFINITY_AUTO=0 turns it off", engine)
    return on


@contextmanager
def starting_worker(*, gpu: GpuReference = None, node: int | None = None) -> Iterator[None]:
    """Start the `multiprocessing` workers of the block bound, as `affinity.spawning()`, else unbound."""
    with ExitStack() as block:
        with errors_logged("the worker starts unbound"):
            block.enter_context(spawning(gpu=gpu, node=node))
        yield


def bind_worker(*, gpu: GpuReference = None, node: int | None = None) -> None:
    """Bind this process, as `affinity.bind()`, else leave it unbound."""
    with errors_logged("this process is unbound"):
        bind(gpu=gpu, node=node)


@contextmanager
def errors_logged(consequence: str) -> Iterator[None]:
    """Log an error of the block with its consequence, and go on; raise it under `AFFINITY_ENFORCE=required`."""
    try:
        yield
    except AffinityError as error:
        if _required():
            raise
        log.error("affinity: %s: %s", consequence, error)
    except Exception:
        if _required():
            raise
        log.exception("affinity: %s; report this error of numa-affinity", consequence)


def _required() -> bool:
    """Return whether binding is required, even if another variable does not parse."""
    names = [v.name for v in (*VARIABLES, *ALIASES) if v.field == "required"]
    try:
        return Settings.from_environ({name: os.environ[name] for name in names if name in os.environ}).required
    except SettingsError:
        return False


class Hook(NamedTuple):
    """A function of an engine that its plugin replaces.

    module: imported to replace it. name: of the function in it, `Class.method` for a method. parameters: the names
    of its first parameters. lost: what does not work without it.
    """

    module: str
    name: str
    parameters: tuple[str, ...]
    lost: str


def replace(hook: Hook, make: Callable[[Any], Any]) -> bool:
    """Replace an engine's function by `make(original)`, once; return whether it is replaced.

    Log a warning if the function is not as this package expects it. Raise ImportError if there is no such module.
    """
    owner: Any = importlib.import_module(hook.module)
    *path, name = hook.name.split(".")
    for part in path:
        owner = getattr(owner, part, None)
    original: Any = getattr(owner, name, None)
    if getattr(original, "_affinity_replaced", False):
        return True
    found = tuple(inspect.signature(original).parameters)[: len(hook.parameters)] if callable(original) else None
    if found != hook.parameters:
        log.warning(
            "affinity: %s.%s %s, (%s) was expected: %s; upgrade numa-affinity, or start the engine with `affinity run`",
            hook.module,
            hook.name,
            "is missing" if found is None else f"takes ({', '.join(found)})",
            ", ".join(hook.parameters),
            hook.lost,
        )
        return False
    replacement: Any = functools.wraps(original)(make(original))
    replacement._affinity_replaced = True
    setattr(owner, name, replacement)
    return True
