"""As `ray_executor_v2.py`: a worker is built after the GPUs of all actors are known, and Ray sets no variable."""

import os

import ray

from vllm.logger import configure_logging
from vllm.v1.executor.multiproc_executor import WorkerProc


def state():
    with open("/proc/self/numa_maps", encoding="ascii") as file:
        policy = file.readline().split()[1]
    masks = set()
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/status", encoding="ascii") as file:
            masks |= {line.split()[1] for line in file if line.startswith("Cpus_allowed_list")}
    return sorted(masks), policy


class RayWorkerProc(WorkerProc):
    def __init__(self, vllm_config):
        configure_logging()
        self.vllm_config = vllm_config

    def get_node_and_physical_gpu_ids(self):
        context = ray.get_runtime_context()
        return context.get_node_id(), [int(gpu) for gpu in context.get_accelerator_ids()["GPU"]]

    def initialize_worker(self, local_rank, driver_env_vars, assigned_physical_gpu_ids):
        for name, value in driver_env_vars.items():
            os.environ.setdefault(name, value)
        self.vllm_config.parallel_config.assigned_physical_gpu_ids = assigned_physical_gpu_ids
        super().__init__(self.vllm_config, local_rank)
        return local_rank, state()


class RayExecutorV2:
    def __init__(self, vllm_config, pipes):
        environ = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
        options = {"num_cpus": 0, "num_gpus": 1, "runtime_env": {"env_vars": environ}}
        actors = [ray.remote(RayWorkerProc).options(**options).remote(vllm_config) for _ in range(2)]
        placed = ray.get([actor.get_node_and_physical_gpu_ids.remote() for actor in actors])
        ids = [gpus[0] for _, gpus in placed]
        if (ids == sorted(ids)) == (os.environ.get("VLLM_TEST_ORDER") == "reversed"):  # Ray places them in any order
            actors.reverse()
            ids.reverse()
        self.ids = ids
        environ = {name: text for name, text in os.environ.items() if name.startswith("VLLM_")}
        starts = [a.initialize_worker.remote(rank, environ, sorted(ids)) for rank, a in enumerate(actors)]
        self.states = dict(ray.get(starts))

    def shutdown(self):
        pass
