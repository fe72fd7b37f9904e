"""As `worker_base.py`."""

import os
import threading


class WorkerBase:
    def __init__(
        self, vllm_config, local_rank: int, rank: int = 0, distributed_init_method: str = "", is_driver_worker=False
    ):
        self.vllm_config = vllm_config
        self.local_rank = local_rank


class Worker(WorkerBase):
    """As `gpu_worker.py`."""

    def init_device(self, pipe):
        if pipe is not None:
            dp_rank = self.vllm_config.parallel_config.data_parallel_rank_local
            pipe.send((f"DP{dp_rank}_TP{self.local_rank}", os.getpid()))
            pipe.recv()  # until the test has read this process


class WorkerWrapperBase:
    def __init__(self, rpc_rank: int = 0):
        self.rpc_rank = rpc_rank

    def init_worker(self, all_kwargs):
        threading.Thread(target=threading.Event().wait, daemon=True).start()  # as a library that was imported
        from vllm.plugins import load_general_plugins

        load_general_plugins()
        self.worker = Worker(**all_kwargs[self.rpc_rank])

    def init_device(self, pipe):
        self.worker.init_device(pipe)
