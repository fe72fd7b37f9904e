"""As `LLM` and `vllm serve`: the caller's process starts an EngineCore for each data-parallel rank."""

import os

from vllm.config import ParallelConfig, VllmConfig
from vllm.logger import configure_logging
from vllm.plugins import load_general_plugins
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.engine.utils import CoreEngineProcManager


class LLM:
    """`processes`: for each of its processes the other end of a pipe, from which its name and process id come."""

    def __init__(self, **parallel):
        load_general_plugins()
        configure_logging()
        config = VllmConfig(ParallelConfig(**parallel))
        if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0":
            self.core = EngineCoreProc(config)
            self.processes = []
        else:
            self.manager = CoreEngineProcManager(config)
            self.processes = self.manager.readers

    def shutdown(self):
        if self.processes:
            self.manager.shutdown()
