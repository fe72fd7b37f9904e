"""As `srt/ray/engine.py`."""

from types import SimpleNamespace

import ray

from sglang.srt.plugins import load_plugins
from sglang.srt.ray.scheduler_actor import SchedulerActor


def _create_scheduler_actor(pg, bundle_idx, gpu_id, server_args, port_args, tp_rank):  # noqa: PLR0917
    return SchedulerActor.options(num_cpus=0, num_gpus=1).remote(
        server_args=server_args, port_args=port_args, gpu_id=gpu_id, tp_rank=tp_rank
    )


class RayEngine:
    def __init__(self, numa_node=None):
        load_plugins()
        server_args = SimpleNamespace(numa_node=numa_node, device="cuda")
        actors = [_create_scheduler_actor(None, 0, rank, server_args, None, rank) for rank in range(2)]
        self.infos = ray.get([actor.get_info.remote() for actor in actors])
