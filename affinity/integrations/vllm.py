"""vLLM's plugin: each worker starts on the CPUs and the memory next to its GPU (group `vllm.general_plugins`).

Source: vLLM 0.32.0. v1/engine/utils.py and v1/executor/multiproc_executor.py start each process inside
`numa_utils.configure_subprocess`; v1/worker/gpu_worker.py, `Worker.init_device`, decides which GPU a worker has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from affinity.handoff import matching_record
from affinity.host import Host
from affinity.integrations.engine import Hook, bind_worker, errors_logged, is_on, replace, starting_worker
from affinity.launchers.detect import detect
from affinity.launchers.launch import LaunchMode
from affinity.plugins import Plugins

log = logging.getLogger("affinity.integrations")

HOOKS = (
    Hook(
        "vllm.utils.numa_utils",
        "configure_subprocess",
        ("vllm_config", "local_rank", "dp_local_rank", "process_kind"),
        "EngineCore is unbound, and a worker starts unbound and binds itself before it opens its GPU",
    ),
    Hook(
        "vllm.v1.worker.worker_base",
        "WorkerBase.__init__",
        ("self", "vllm_config", "local_rank"),
        "a worker by multiprocessing starts bound, and does not log it; a worker of Ray is unbound",
    ),
)

#: The executors whose workers EngineCore does not start, so --numa-bind has no effect on them.
_ELSEWHERE = ("ray", "external_launcher")


def register() -> None:
    """Replace vLLM's functions. vLLM calls this in each of its processes; a forked process has what its parent has."""
    _log_as_vllm()
    if is_on("vLLM"):
        for hook, make in zip(HOOKS, (_starting, _building), strict=True):
            replace(hook, make)


def _starting(original: Callable[..., Any]) -> Callable[..., Any]:
    """Around the start of EngineCore and of each worker by multiprocessing."""

    @contextmanager
    def configure_subprocess(
        vllm_config: Any, local_rank: int, dp_local_rank: int | None = None, process_kind: str = "worker"
    ) -> Iterator[None]:
        block = original(vllm_config, local_rank, dp_local_rank, process_kind)
        with errors_logged(f"{process_kind} starts unbound"):
            parallel, core = vllm_config.parallel_config, process_kind == "EngineCore"
            reason = _left_alone(parallel, core=core)
            if not reason:
                ranks = range(parallel.local_world_size) if core else [local_rank]
                gpus = [_gpu(parallel, rank, dp_local_rank) for rank in ranks]
                block = starting_worker(gpu=gpus)
                reason = f"starts on the nodes of its GPUs ({', '.join(map(str, gpus))})"
            if core:  # a worker logs its own
                log.info("affinity: vLLM's EngineCore %s; the process that starts it is left as it is", reason)
        with block:
            yield

    return configure_subprocess


def _building(original: Callable[..., Any]) -> Callable[..., Any]:
    """In the worker's process, before its GPU is opened: confirm what it was started with, or bind a worker of Ray."""

    def __init__(self: Any, vllm_config: Any, local_rank: int, *args: Any, **kwargs: Any) -> None:
        with errors_logged("this worker is unbound"):
            parallel = vllm_config.parallel_config
            reason = _left_alone(parallel)
            if not reason and detect(Host.live().kernel, Plugins().launchers).launch.mode is LaunchMode.INLINE:
                reason = "is the program that calls vLLM and is left as it is: call affinity.bind() in it"
            if reason:
                log.info("affinity: vLLM's worker %s %s", local_rank, reason)
            elif parallel.numa_bind_nodes:  # which vLLM itself does not heed here
                bind_worker(node=parallel.numa_bind_nodes[local_rank])
            else:
                bind_worker(gpu=_gpu(parallel, local_rank))
        original(self, vllm_config, local_rank, *args, **kwargs)

    return __init__


def _left_alone(parallel: Any, *, core: bool = False) -> str:
    """Return why a process is not bound by this package, "" if it is."""
    from vllm.platforms import current_platform

    if getattr(current_platform, "ray_device_key", "GPU") != "GPU":
        return f"is left as it is: vLLM's device here is no GPU but {current_platform.device_type!r}"
    elsewhere = parallel.distributed_executor_backend in _ELSEWHERE
    # Where this package bound the caller, vLLM refuses to detect nodes and raises: then this package binds.
    if (
        parallel.numa_bind
        and (core or not elsewhere)
        and (parallel.numa_bind_nodes or matching_record(Host.live().kernel) is None)
    ):
        return "is left to vLLM, as --numa-bind asks"
    if core and elsewhere:
        return "is left as it is: its workers are not its children, and bind themselves"
    return ""


def _gpu(parallel: Any, local_rank: int, dp_local_rank: int | None = None) -> str:
    """Return the GPU of a worker as vLLM's `Worker.init_device` computes it, as a reference of this package.

    assigned_physical_gpu_ids (--device-ids, or Ray's) has numbers as an entry of CUDA_VISIBLE_DEVICES is one.
    """
    index = local_rank
    backends = parallel.distributed_executor_backend, parallel.data_parallel_backend
    if backends[0] not in _ELSEWHERE and backends[1] != "ray" and parallel.nnodes_within_dp == 1:
        if dp_local_rank is None:
            dp_local_rank = parallel.data_parallel_rank_local
        if dp_local_rank is None:
            dp_local_rank = parallel.data_parallel_index
        size = parallel.pipeline_parallel_size * parallel.tensor_parallel_size
        index += dp_local_rank * size * getattr(parallel, "prefill_context_parallel_size", 1)
    assigned = parallel.assigned_physical_gpu_ids
    return str(index) if assigned is None else f"driver:{assigned[index]}"


class _ToVllm(logging.Handler):
    """Pass records to vLLM's logger, whose handlers and level vLLM may configure again later."""

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
