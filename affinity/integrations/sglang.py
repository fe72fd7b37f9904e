"""SGLang: each scheduler runs next to its GPU. Entry-point group `sglang.srt.plugins`; read in SGLang 0.5.23.

By `multiprocessing` the scheduler is started bound, in place of SGLang's own numactl script, and logs what is in force
once its log is configured. Under Ray its actor binds itself before its `__init__`. SGLang's own bindings in the process
are not done where this package's holds. The other processes (server, tokenizer, detokenizer, data-parallel controller)
serve all GPUs and are left alone.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from affinity.errors import AffinityError
from affinity.integrations.engine import (
    Hook,
    bind_worker,
    errors_logged,
    fits,
    is_on,
    own_strategy,
    replace,
    starting_worker,
    when_imported,
)

log = logging.getLogger("affinity.integrations")

START = Hook(
    "sglang.srt.utils.numa_utils", "configure_subprocess", ("server_args", "gpu_id"),
    "schedulers that multiprocessing starts are bound as SGLang does it; those of Ray are bound by this package",
)  # fmt: skip
CONFIGURE = Hook(
    "sglang.srt.managers.scheduler", "configure_scheduler_process", ("server_args", "gpu_id"),
    "schedulers start bound but log no report of it, and SGLANG_NUMA_BIND_V2=0 binds as SGLang does it",
)  # fmt: skip
BIND_NODE = Hook(
    "sglang.srt.utils.numa_utils", "numa_bind_to_node", ("node",),
    "schedulers start bound, and SGLang may then set its own memory policy",
)  # fmt: skip
BIND_CPUS = Hook(
    "sglang.srt.utils.common", "set_gpu_proc_affinity", ("gpu_id",),
    "schedulers start bound, and SGLANG_SET_CPU_AFFINITY=1 may then set SGLang's own CPUs",
)  # fmt: skip
CREATE_ACTOR = Hook(
    "sglang.srt.ray.engine", "_create_scheduler_actor", ("pg", "bundle_idx", "gpu_id", "server_args"),
    "schedulers of Ray are bound as SGLang does it; those that multiprocessing starts are bound by this package",
)  # fmt: skip
ACTOR = Hook(
    "sglang.srt.ray.scheduler_actor", "SchedulerActor.__init__", ("self", "server_args", "port_args", "gpu_id"),
    "schedulers of Ray are bound as SGLang does it",
)  # fmt: skip

#: Functions of SGLang that this package relies on. `ACTOR` is not replaced: its class is wrapped when it is pickled.
HOOKS = (START, CONFIGURE, BIND_NODE, BIND_CPUS, CREATE_ACTOR, ACTOR)


def register() -> None:
    """Register the hooks; SGLang calls this function in each of its processes, and then applies them."""
    try:
        _around(START, _start)
        if CONFIGURE.module in sys.modules:  # imported where a scheduler runs; elsewhere that would take seconds
            _register_in_scheduler()
        when_imported(CREATE_ACTOR.module, _replace_create_actor)
    except AffinityError as moved:  # under `required`; SGLang logs an Exception and goes on
        raise SystemExit(f"affinity: {moved}") from moved


def _register_in_scheduler() -> None:
    _around(CONFIGURE, _configure)
    _around(BIND_NODE, _keep_binding)
    _around(BIND_CPUS, _keep_binding)


def _around(hook: Hook, function: Callable[..., Any]) -> None:
    """Register a hook with SGLang, which replaces the function also where a module has imported it by name."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    if fits(hook):
        HookRegistry.register(f"{hook.module}.{hook.name}", function, HookType.AROUND)


def _place(server_args: Any, gpu_id: int) -> dict[str, int]:
    """Return where a scheduler runs: the node of `--numa-node`, read as SGLang reads it, else that of its GPU."""
    nodes = getattr(server_args, "numa_node", None)
    return {"gpu": gpu_id} if nodes is None else {"node": nodes[gpu_id]}


def _has_gpu(server_args: Any) -> bool:
    return getattr(server_args, "device", None) != "cpu"


@contextmanager
def _start(
    original: Callable[..., AbstractContextManager[None]], server_args: Any, gpu_id: int, *args: Any, **kwargs: Any
) -> Iterator[None]:
    """Start one scheduler bound; in its process `gpu_id` is the ordinal of its GPU, in this one as well."""
    with ExitStack() as block:
        with _stops_engine():
            if _has_gpu(server_args) and is_on("SGLang", "its other processes are left alone"):
                place = _place(server_args, gpu_id)
                if "node" in place:
                    log.info("affinity: SGLang: GPU %d: node %d of --numa-node decides", gpu_id, place["node"])
                block.enter_context(starting_worker(**place))
            else:
                block.enter_context(original(server_args, gpu_id, *args, **kwargs))
        yield


@contextmanager
def _stops_engine() -> Iterator[None]:
    """Stop the engine on an error in a thread of the data-parallel controller, which would wait for the thread forever.

    It is stopped as the controller stops it on an error of its main thread: by SIGQUIT to the process that started it.
    """
    try:
        yield
    except Exception as error:
        launcher = multiprocessing.parent_process()
        if launcher is not None and launcher.pid and threading.current_thread() is not threading.main_thread():
            log.critical("affinity: SGLang is stopped: %s", error)
            os.kill(launcher.pid, signal.SIGQUIT)
        raise


def _configure(original: Callable[..., None], server_args: Any, gpu_id: int, *args: Any, **kwargs: Any) -> None:
    """Confirm the binding of a scheduler when its log is configured; for strategy `legacy`, bind it."""
    original(server_args, gpu_id, *args, **kwargs)
    in_actor = multiprocessing.parent_process() is None
    if in_actor or own_strategy() is not None:
        place = _place(server_args, gpu_id)
        bind_worker(**({} if in_actor and "gpu" in place else place))  # an actor's GPU is the one that Ray assigned


def _keep_binding(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """Call SGLang's own binding of the process only if this package did not bind it."""
    if own_strategy() in (None, "noop"):
        return original(*args, **kwargs)
    return log.info("affinity: SGLang: %s has no effect: this process is bound by affinity", original.__name__)


def _replace_create_actor() -> None:
    replace(CREATE_ACTOR, _create_actor)


def _create_actor(original: Callable[..., Any]) -> Callable[..., Any]:
    def create(*args: Any, **kwargs: Any) -> Any:
        if is_on("SGLang", "its other processes are left alone"):
            with errors_logged("SGLang's Ray actors start unbound"):
                from sglang.srt.ray.scheduler_actor import SchedulerActor

                _bind_first(SchedulerActor.__ray_metadata__.modified_class)
        return original(*args, **kwargs)

    return create


def _bind_first(actor: Any) -> None:
    """Bind the actors of a class before their `__init__`; Ray pickles the class with its first actor."""
    construct = actor.__init__
    if hasattr(construct, "_affinity_bound"):
        return

    @functools.wraps(construct)
    def __init__(self: Any, server_args: Any, *args: Any, **kwargs: Any) -> None:
        try:  # on another machine, perhaps with another version of this package or with none
            from affinity.integrations.sglang import bind_actor
        except ImportError as missing:
            logging.getLogger("affinity").warning("affinity: SGLang: this Ray actor is unbound: %s", missing)
        else:
            bind_actor(server_args, kwargs.get("gpu_id", 0))
        construct(self, server_args, *args, **kwargs)

    __init__._affinity_bound = True  # type: ignore[attr-defined]
    actor.__init__ = __init__


def bind_actor(server_args: Any, gpu_id: int) -> None:
    """Bind this process, a Ray actor, to the node of the GPU that Ray assigned to it."""
    if not (_has_gpu(server_args) and is_on("SGLang")):
        return
    from ray import get_runtime_context
    from sglang.srt.plugins.hook_registry import HookRegistry

    place = {}
    if getattr(server_args, "numa_node", None) is not None:  # SGLang's index into it is Ray's id
        assigned = get_runtime_context().get_accelerator_ids().get("GPU") or [gpu_id]
        place = _place(server_args, int(assigned[0]))
    bind_worker(**place)
    _register_in_scheduler()
    HookRegistry.apply_hooks()
