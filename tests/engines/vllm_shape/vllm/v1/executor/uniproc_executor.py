"""As `uniproc_executor.py`: the worker is in the process of EngineCore, and its rank a launcher's if there is one."""

import os

from vllm.v1.worker.worker_base import WorkerWrapperBase


class UniProcExecutor:
    def __init__(self, vllm_config, pipes):
        is_external = vllm_config.parallel_config.distributed_executor_backend == "external_launcher"
        local_rank = int(os.environ["LOCAL_RANK"]) if is_external else 0
        worker = WorkerWrapperBase()
        worker.init_worker([{"vllm_config": vllm_config, "local_rank": local_rank}])
        worker.init_device(None)
        if pipes:
            pipes[0].send((f"DP{vllm_config.parallel_config.data_parallel_rank_local}_TP0", os.getpid()))

    def shutdown(self):
        pass
