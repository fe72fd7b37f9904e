"""As `EngineCoreProc`."""

import os

from vllm.logger import configure_logging
from vllm.plugins import load_general_plugins


class EngineCoreProc:
    @staticmethod
    def run_engine_core(vllm_config, dp_rank, pipes):
        configure_logging()
        vllm_config.parallel_config.data_parallel_rank_local = dp_rank
        EngineCoreProc(vllm_config, pipes)

    def __init__(self, vllm_config, pipes=()):
        load_general_plugins()
        parallel = vllm_config.parallel_config
        if parallel.distributed_executor_backend == "ray":
            from vllm.v1.executor.ray_executor_v2 import RayExecutorV2 as Executor
        elif parallel.distributed_executor_backend == "mp":
            from vllm.v1.executor.multiproc_executor import MultiprocExecutor as Executor
        else:
            from vllm.v1.executor.uniproc_executor import UniProcExecutor as Executor
        self.executor = Executor(vllm_config, pipes[1:])
        if pipes:
            pipes[0].send((f"DP{parallel.data_parallel_rank_local}", os.getpid()))
            pipes[0].recv()  # until the test has read this process
            self.executor.shutdown()
