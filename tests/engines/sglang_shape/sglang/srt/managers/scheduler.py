import logging
import os

from sglang.srt.plugins import load_plugins
from sglang.srt.utils import set_gpu_proc_affinity
from sglang.srt.utils.numa_utils import numa_bind_to_node


def configure_scheduler_process(server_args, gpu_id: int, *, display_tp_rank=None):
    logging.basicConfig(level=logging.INFO, format=f"[TP{display_tp_rank}] %(message)s", force=True)
    if os.environ.get("SGLANG_SET_CPU_AFFINITY") == "1":
        set_gpu_proc_affinity(gpu_id)
    if os.environ.get("SGLANG_NUMA_BIND_V2") == "0":
        numa_bind_to_node(0)


def run_scheduler_process(server_args, gpu_id: int, tp_rank: int, pipe_writer):
    load_plugins()
    configure_scheduler_process(server_args, gpu_id, display_tp_rank=tp_rank)
    pipe_writer.send((os.getpid(), gpu_id))
    pipe_writer.recv()  # until the test has read this process
