"""As `srt/ray/scheduler_actor.py`: it loads no plugins, and binds itself to a node of SGLang's."""

import json
import os

import ray


def state():
    with open("/proc/self/numa_maps", encoding="ascii") as file:
        return sorted(os.sched_getaffinity(0)), file.readline().split()[1]


@ray.remote
class SchedulerActor:
    def __init__(self, server_args, port_args, gpu_id: int, tp_rank: int):
        self.at_start = state()
        from sglang.srt.managers.scheduler import configure_scheduler_process
        from sglang.srt.utils.numa_utils import numa_bind_to_node

        actual_gpu_id = int(ray.get_runtime_context().get_accelerator_ids()["GPU"][0])
        configure_scheduler_process(server_args, actual_gpu_id, display_tp_rank=tp_rank)
        numa_bind_to_node(0)
        self.gpu = actual_gpu_id

    def get_info(self):
        return json.dumps([self.gpu, self.at_start, state()])
