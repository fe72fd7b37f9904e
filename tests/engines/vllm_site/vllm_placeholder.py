"""A platform of vLLM that runs on CPUs and calls its devices GPUs, as CUDA's. On PYTHONPATH in its tests alone."""

import os
import time
from unittest import mock

import torch
from vllm.platforms.cpu import CpuPlatform


def platform():
    """Return the platform's name, as an entry point of group `vllm.platform_plugins`."""
    return "vllm_placeholder.Platform"


class Platform(CpuPlatform):
    ray_device_key = "GPU"

    @classmethod
    def check_and_update_config(cls, vllm_config):
        method = os.environ.get("VLLM_WORKER_MULTIPROC_METHOD", "fork")
        super().check_and_update_config(vllm_config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = method  # on CPUs it is always spawn
        vllm_config.parallel_config.worker_cls = "vllm_placeholder.Worker"


def __getattr__(name):
    if name != "Worker":
        raise AttributeError(name)
    from vllm.v1.worker.cpu_worker import CPUWorker  # which needs a current platform

    class Worker(CPUWorker):
        """Reports its process to the test before it loads its model, and waits until the test has read it."""

        def __init__(self, *args, **kwargs):
            # The CPUs' worker sets a memory policy of its own before it calls its base class; a GPU's does not.
            with mock.patch.object(torch.ops._C, "init_cpu_memory_env", return_value=None):
                super().__init__(*args, **kwargs)

        def load_model(self, *args, **kwargs):
            ready = os.path.join(os.environ["VLLM_TEST_FOLDER"], str(self.local_rank))
            with open(f"{ready}.new", "w") as file:
                file.write(str(os.getpid()))
            os.rename(f"{ready}.new", ready)
            while not os.path.exists(f"{ready}.read"):
                time.sleep(0.01)
            super().load_model(*args, **kwargs)

    return Worker
