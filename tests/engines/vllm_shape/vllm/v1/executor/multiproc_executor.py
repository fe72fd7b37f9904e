"""As `multiproc_executor.py`: since 0.33 workers that start by spawn are started by several threads at a time."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

from vllm.logger import configure_logging
from vllm.utils import numa_utils
from vllm.v1.worker.worker_base import WorkerWrapperBase


class WorkerProc:
    def __init__(self, vllm_config, local_rank, pipe=None):
        self.worker = WorkerWrapperBase(rpc_rank=local_rank)
        self.worker.init_worker([{}] * local_rank + [{"vllm_config": vllm_config, "local_rank": local_rank}])
        self.worker.init_device(pipe)

    @staticmethod
    def worker_main(**kwargs):
        configure_logging()
        WorkerProc(**kwargs)

    @staticmethod
    def make_worker_process(vllm_config, local_rank, pipe):
        context = multiprocessing.get_context(os.environ.get("VLLM_WORKER_MULTIPROC_METHOD", "fork"))
        kwargs = {"vllm_config": vllm_config, "local_rank": local_rank, "pipe": pipe}
        name = f"DP{vllm_config.parallel_config.data_parallel_rank_local}_TP{local_rank}"
        process = context.Process(target=WorkerProc.worker_main, name=name, kwargs=kwargs, daemon=True)
        with numa_utils.configure_subprocess(vllm_config, local_rank, process_kind="worker"):
            process.start()
        return process


class MultiprocExecutor:
    def __init__(self, vllm_config, pipes):
        def start(rank):
            return WorkerProc.make_worker_process(vllm_config, rank, pipes[rank])

        ranks = range(vllm_config.parallel_config.local_world_size)
        if os.environ.get("VLLM_WORKER_MULTIPROC_METHOD") == "spawn" and not vllm_config.parallel_config.numa_bind:
            with ThreadPoolExecutor(max_workers=len(ranks)) as pool:
                self.workers = list(pool.map(start, ranks))
        else:
            self.workers = [start(rank) for rank in ranks]

    def shutdown(self):
        for worker in self.workers:
            worker.join()
