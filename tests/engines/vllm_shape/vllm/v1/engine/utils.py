"""As `CoreEngineProcManager`: it starts EngineCores, by fork or by spawn."""

import multiprocessing
import os

from vllm.utils import numa_utils
from vllm.v1.engine.core import EngineCoreProc


class CoreEngineProcManager:
    def __init__(self, vllm_config):
        context = multiprocessing.get_context(os.environ.get("VLLM_WORKER_MULTIPROC_METHOD", "fork"))
        self.readers, self.processes = [], []
        parallel = vllm_config.parallel_config
        for rank in range(parallel.data_parallel_size):
            pipes = [context.Pipe() for _ in range(1 + parallel.local_world_size)]
            self.readers += [reader for reader, _ in pipes]
            arguments = {"vllm_config": vllm_config, "dp_rank": rank, "pipes": [writer for _, writer in pipes]}
            name = f"EngineCore_DP{rank}"
            process = context.Process(target=EngineCoreProc.run_engine_core, name=name, kwargs=arguments)
            with numa_utils.configure_subprocess(
                vllm_config, local_rank=0, dp_local_rank=rank, process_kind="EngineCore"
            ):
                process.start()
            self.processes.append(process)
            for _, writer in pipes:
                writer.close()

    def shutdown(self):
        for process in self.processes:
            process.join()
