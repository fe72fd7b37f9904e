"""As `uniproc_executor.py`: the worker is in the process of EngineCore."""

from vllm.v1.worker.worker_base import WorkerWrapperBase


class UniProcExecutor:
    def __init__(self, vllm_config, pipes):
        worker = WorkerWrapperBase()
        worker.init_worker([{"vllm_config": vllm_config, "local_rank": 0}])
        worker.init_device(None)

    def shutdown(self):
        pass
