"""As `config/parallel.py`."""

from dataclasses import dataclass


@dataclass
class ParallelConfig:
    tensor_parallel_size: int = 2
    data_parallel_size: int = 1
    data_parallel_rank_local: int | None = None
    data_parallel_index: int = 0
    data_parallel_backend: str = "mp"
    distributed_executor_backend: str = "mp"
    nnodes_within_dp: int = 1
    numa_bind: bool = False
    numa_bind_nodes: list | None = None
    numa_bind_cpus: list | None = None
    assigned_physical_gpu_ids: list | None = None

    @property
    def world_size(self):
        return self.tensor_parallel_size

    @property
    def local_world_size(self):
        return self.world_size // self.nnodes_within_dp


@dataclass
class VllmConfig:
    parallel_config: ParallelConfig
