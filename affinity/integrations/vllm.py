"""vLLM: each worker runs next to its GPU. Entry-point group `vllm.general_plugins`; read in vLLM 0.32.0 and 0.33.0.

By `multiprocessing` a worker is started bound, and EngineCore is started on the nodes of all its workers. Under Ray a
worker binds itself in its actor before it opens its GPU. The API server serves all GPUs and is left alone. With
`--numa-bind` the processes that vLLM then binds are left to vLLM.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from affinity.errors import BindError
from affinity.host import Host
from affinity.integrations.engine import (
    Hook,
    bind_worker,
    errors_logged,
    is_on,
    own_strategy,
    replace,
    starting_worker,
    when_imported,
)
from affinity.launchers.detect import detect
from affinity.plugins import Plugins

log = logging.getLogger("affinity.integrations")

START = Hook(
    "vllm.utils.numa_utils", "configure_subprocess", ("vllm_config", "local_rank", "dp_local_rank", "process_kind"),
    "EngineCore is unbound; a worker starts unbound, and binds itself before it opens its GPU",
)  # fmt: skip
BUILD = Hook(
    "vllm.v1.worker.worker_base", "WorkerBase.__init__", ("self", "vllm_config", "local_rank"),
    "workers of multiprocessing start bound but log no report of it; workers of Ray are unbound",
)  # fmt: skip

#: Functions of vLLM that this package replaces.
HOOKS = (START, BUILD)

#: The executors whose workers EngineCore does not start: it has no part in their GPUs, and --numa-bind no effect.
_STARTED_ELSEWHERE = ("ray", "external_launcher")


def register() -> None:
    """Replace vLLM's functions; vLLM calls this function in each of its processes, and an error of it stops vLLM."""
    with errors_logged("vLLM runs unbound"):
        replace(START, _start)
        when_imported(BUILD.module, _replace_build)  # where no worker runs, its import would take seconds


def _replace_build() -> None:
    replace(BUILD, _build)


def _is_on() -> bool:
    from vllm.platforms import current_platform

    if getattr(current_platform, "ray_device_key", "GPU") != "GPU":  # vLLM's numbers are then no GPUs'
        return False
    _log_as_vllm()
    return is_on("vLLM")


def _start(original: Callable[..., Any]) -> Callable[..., Any]:
    @contextmanager
    def configure_subprocess(
        vllm_config: Any, local_rank: int, dp_local_rank: int | None = None, process_kind: str = "worker", **more: Any
    ) -> Iterator[None]:
        block = original(vllm_config, local_rank, dp_local_rank, process_kind, **more)
        if _is_on():
            with errors_logged(f"{process_kind} starts unbound"):
                parallel, is_core = vllm_config.parallel_config, process_kind == "EngineCore"
                reason = _reason_to_leave(parallel, is_core=is_core)
                if is_core:  # a worker logs its own
                    _log_core(parallel, reason)
                if not reason:
                    ranks = range(parallel.local_world_size) if is_core else (local_rank,)
                    block = starting_worker(gpu=[_gpu(parallel, rank, dp_local_rank) for rank in ranks])
        with block:
            yield

    return configure_subprocess


def _log_core(parallel: Any, reason: str) -> None:
    if _reason_to_leave(parallel):  # the workers too
        log.info("affinity: vLLM: EngineCore %s", reason)
    else:
        core = reason or "is bound to the nodes of its workers"
        is_on("vLLM", f"EngineCore {core}, the API server is left alone")


def _build(original: Callable[..., Any]) -> Callable[..., Any]:
    def __init__(self: Any, vllm_config: Any, local_rank: int, *args: Any, **kwargs: Any) -> None:
        if _is_on():
            with errors_logged("this process is unbound"):
                _bind(vllm_config.parallel_config, local_rank)
        original(self, vllm_config, local_rank, *args, **kwargs)

    return __init__


def _bind(parallel: Any, local_rank: int) -> None:
    """Confirm the binding of this process, a worker; bind it if it was not started bound."""
    reason = _reason_to_leave(parallel)
    if not reason and detect(Host.live().kernel, Plugins().launchers).launcher is None:
        reason = "is the program that calls vLLM, and is left alone: call affinity.bind() in it"
    if reason:
        log.info("affinity: vLLM: worker %d %s", local_rank, reason)
    elif parallel.numa_bind_nodes:
        bind_worker(node=_node(parallel, local_rank))
    else:
        bind_worker(gpu=_gpu(parallel, local_rank))


def _reason_to_leave(parallel: Any, *, is_core: bool = False) -> str:
    """Return why a process is not bound by this package, "" if it is."""
    elsewhere = parallel.distributed_executor_backend in _STARTED_ELSEWHERE
    # In a process that this package bound, vLLM detects no nodes and raises an error: then this package binds.
    can_bind = parallel.numa_bind_nodes or own_strategy() in (None, "noop")
    if parallel.numa_bind and can_bind and (is_core or not elsewhere):
        return "is left to vLLM, as --numa-bind asks"
    return "is left alone" if is_core and elsewhere else ""


def _node(parallel: Any, local_rank: int) -> int:
    """Return the node that --numa-bind-nodes has for a worker which vLLM does not bind."""
    nodes: list[int] = parallel.numa_bind_nodes
    if local_rank >= len(nodes):
        raise BindError(f"--numa-bind-nodes {nodes} has no node for worker {local_rank}: give one for each GPU")
    log.info("affinity: vLLM: worker %d: node %d of --numa-bind-nodes decides", local_rank, nodes[local_rank])
    if parallel.numa_bind_cpus:
        log.warning(
            "affinity: vLLM: --numa-bind-cpus has no effect on workers of %s: "
            "set AFFINITY_POLICY=explicit and AFFINITY_CPUS",
            parallel.distributed_executor_backend,
        )
    return nodes[local_rank]


def _gpu(parallel: Any, local_rank: int, dp_local_rank: int | None = None) -> str:
    """Return the GPU that vLLM gives a worker (v1/worker/gpu_worker.py, `init_device`), as a reference.

    Of several workers of Ray in one machine it need not be the one that Ray assigned to the actor: vLLM sorts them.
    """
    index = local_rank
    backends = parallel.distributed_executor_backend, parallel.data_parallel_backend
    if backends[0] not in _STARTED_ELSEWHERE and backends[1] != "ray" and parallel.nnodes_within_dp == 1:
        if dp_local_rank is None:
            dp_local_rank = parallel.data_parallel_rank_local
        if dp_local_rank is None:
            dp_local_rank = parallel.data_parallel_index
        index += dp_local_rank * parallel.world_size
    assigned = parallel.assigned_physical_gpu_ids  # by --device-ids or Ray, numbered as in CUDA_VISIBLE_DEVICES
    return str(index) if assigned is None else f"driver:{assigned[index]}"


class _ToVllm(logging.Handler):
    """Pass records to vLLM's logger, which vLLM configures and not the root logger."""

    def emit(self, record: logging.LogRecord) -> None:
        vllm = logging.getLogger("vllm")
        if vllm.isEnabledFor(record.levelno):
            vllm.handle(record)


def _log_as_vllm() -> None:
    """Log INFO where vLLM logs, unless the program configured logging so that it is logged already."""
    ours = logging.getLogger("affinity")
    if not (ours.isEnabledFor(logging.INFO) and ours.hasHandlers()):
        ours.addHandler(_ToVllm())
        ours.setLevel(logging.INFO)
        ours.propagate = False
