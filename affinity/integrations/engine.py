"""What the plugins of serving engines share: starts and binds that log their errors, and functions to replace.

An error is a line in the engine's log and the worker is unbound; under `AFFINITY_ENFORCE=required` it is raised.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.util
import inspect
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from affinity.api import bind, spawning
from affinity.errors import AffinityError, BindError, SettingsError
from affinity.handoff import Handoff, own_record
from affinity.host import this_process
from affinity.settings import Settings
from affinity.variables import ALIASES, VARIABLES

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from affinity.observe import GpuReference

log = logging.getLogger("affinity.integrations")


def is_on(engine: str, others: str = "") -> bool:
    """Return whether the workers of this engine are to be bound.

    others: what happens to the engine's other processes; given where workers are started, and then logged, once. False
    after an error in the settings, and with `AFFINITY_AUTO=0`. Raise SettingsError under `required`.
    """
    return _is_on(engine, others, _variables())


@functools.cache  # the log has a line for each answer
def _is_on(engine: str, others: str, variables: tuple[tuple[str, str], ...]) -> bool:
    on = False
    is_first = bool(others) or multiprocessing.parent_process() is None  # a child's parent has logged the error
    with errors_logged(f"{engine} runs unbound", logging.ERROR if is_first else logging.DEBUG):
        on = Settings.from_environ(dict(variables)).auto
    if on and others:
        log.info(
            "affinity: %s: each worker is bound to the NUMA node of its GPU; %s; AFFINITY_AUTO=0 turns it off",
            engine,
            others,
        )
    return on


def _variables() -> tuple[tuple[str, str], ...]:
    """Return the variables that are settings: the operator's, under those that a parent gave in code."""
    received = Handoff.received(this_process())
    texts = {**os.environ, **(received.settings if received is not None else {})}
    return tuple((v.name, texts[v.name]) for v in (*VARIABLES, *ALIASES) if v.name in texts)


def _is_off() -> bool:
    """Return whether the operator turned binding off; an error in the settings is logged by `is_on`."""
    try:
        return not Settings.from_environ(dict(_variables())).auto
    except SettingsError:
        return False


@contextmanager
def starting_worker(*, gpu: GpuReference = None, node: int | None = None) -> Iterator[None]:
    """Start the `multiprocessing` workers of the block bound, as `affinity.spawning()`, else unbound."""
    with ExitStack() as block:
        with errors_logged("the worker starts unbound"):
            block.enter_context(spawning(gpu=gpu, node=node))
        yield


def bind_worker(*, gpu: GpuReference = None, node: int | None = None) -> None:
    """Bind this process, as `affinity.bind()`, else leave it unbound. Log its report also if it is bound already."""
    with errors_logged("this process is unbound"):
        bind(gpu=gpu, node=node)


def own_strategy() -> str | None:
    """Return the strategy by which this package bound or started this process, None if it did neither."""
    known = own_record(this_process()) or Handoff.received(this_process())
    return known.strategy if known is not None else None


@contextmanager
def errors_logged(consequence: str, level: int = logging.ERROR) -> Iterator[None]:
    """Log an error of the block with its consequence, and go on; raise it under `AFFINITY_ENFORCE=required`."""
    try:
        yield
    except AffinityError as error:
        if _required():
            raise
        log.log(level, "affinity: %s: %s", consequence, error)
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


def fits(hook: Hook) -> bool:
    """Return whether an engine's function is as this package expects it, else log a warning, once for all processes.

    False with `AFFINITY_AUTO=0`. Raise BindError under `required`; ImportError if its module needs one that is not
    installed.
    """
    if _is_off():
        return False
    original = _resolve(hook)[1]
    found = _first_parameters(original, len(hook.parameters)) if callable(original) else None
    if found == hook.parameters:
        return True
    engine = sys.modules.get(hook.module.partition(".")[0])
    message = "; ".join(difference(hook, found, getattr(engine, "__version__", "of unknown version")))
    if _required():
        raise BindError(message)
    is_child = multiprocessing.parent_process() is not None  # the launching process has logged it
    log.log(logging.DEBUG if is_child else logging.WARNING, "affinity: %s", message)
    return False


def _first_parameters(function: Callable[..., Any], count: int) -> tuple[str, ...]:
    """Return the names of a function's first parameters, () for a compiled one without a signature."""
    try:
        return tuple(inspect.signature(function).parameters)[:count]
    except ValueError:
        return ()


def difference(hook: Hook, found: tuple[str, ...] | None, version: str) -> tuple[str, str]:
    """Return how an engine's function differs from what is expected, and the remedy.

    found: the names of its first parameters, None if it is missing.
    """
    state = "is missing" if found is None else f"takes ({', '.join(found)})"
    name = f"in {hook.module.partition('.')[0]} {version}, {hook.module}.{hook.name}"
    return (
        f"{name} {state}, ({', '.join(hook.parameters)}) was expected: {hook.lost}",
        "upgrade numa-affinity, or start the engine with `affinity run`",
    )


def replace(hook: Hook, make: Callable[[Any], Any]) -> bool:
    """Replace an engine's function by `make(original)`, once; return whether it is replaced. Errors as for `fits`."""
    owner, original = _resolve(hook)
    if getattr(original, "_affinity_replaced", False):
        return True
    if not fits(hook):
        return False
    replacement: Any = functools.wraps(original)(make(original))
    replacement._affinity_replaced = True
    setattr(owner, hook.name.rpartition(".")[2], replacement)
    return True


def _resolve(hook: Hook) -> tuple[Any, Any]:
    """Return the owner of a hook's function, and the function; None for one that is missing."""
    try:
        owner: Any = importlib.import_module(hook.module)
    except ModuleNotFoundError as missing:
        if not f"{hook.module}.".startswith(f"{missing.name}."):
            raise
        return None, None
    *path, name = hook.name.split(".")
    for part in path:
        owner = getattr(owner, part, None)
    return owner, getattr(owner, name, None)


def when_imported(module: str, then: Callable[[], None]) -> None:
    """Call `then` after the module's import: at once if it is imported, never if it is not. See `errors_logged`."""

    def call() -> None:
        with errors_logged(f"{module} is left as it is"):
            then()

    if module in sys.modules:
        call()
    else:
        sys.meta_path.insert(0, _ImportHook(module, call))


class _ImportHook(importlib.abc.MetaPathFinder):
    """A finder that lets the other finders find one module, and calls a function after its first complete import."""

    def __init__(self, module: str, then: Callable[[], None]) -> None:
        self._module, self._then = module, then
        self._others_are_asked = False

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != self._module or self._others_are_asked:
            return None
        self._others_are_asked = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._others_are_asked = False
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:  # not a second module from the same loader
                    sys.meta_path.remove(self)
                    self._then()

            loader.exec_module = exec_module
        return spec
