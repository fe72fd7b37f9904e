"""As the controller of data parallelism: each replica is launched in a thread that the controller waits for."""

import logging
import multiprocessing as mp
import threading

from sglang.srt.managers.scheduler import run_scheduler_process
from sglang.srt.plugins import load_plugins
from sglang.srt.utils import maybe_reindex_device_id, numa_utils


def run_data_parallel_controller_process(server_args, connections):
    load_plugins()
    logging.basicConfig(level=logging.INFO, format="[DP] %(message)s", force=True)
    ready, lock = [], threading.Lock()

    def launch(rank, connection, event):
        with lock, maybe_reindex_device_id(server_args.base_gpu_id + rank) as gpu_id:
            process = mp.Process(target=run_scheduler_process, args=(server_args, gpu_id, rank, connection))
            with numa_utils.configure_subprocess(server_args, gpu_id):
                process.start()
        event.set()

    for rank, connection in enumerate(connections):
        ready.append(threading.Event())
        threading.Thread(target=launch, args=(rank, connection, ready[-1])).start()
    for event in ready:
        event.wait()
