"""As `Engine._launch_subprocesses`: schedulers and a detokenizer by spawn, and the data-parallel controller."""

import logging
import multiprocessing as mp
import os
import signal
import time
from types import SimpleNamespace

from sglang.srt.managers.data_parallel_controller import run_data_parallel_controller_process
from sglang.srt.managers.scheduler import run_scheduler_process
from sglang.srt.plugins import load_plugins
from sglang.srt.utils import maybe_reindex_device_id, numa_utils


class Engine:
    """Launches two schedulers. `schedulers`: for each its process id, its gpu_id, and the other end of its pipe."""

    def __init__(self, *, base_gpu_id=0, numa_node=None, dp_size=1, device="cuda"):
        load_plugins()
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
        mp.set_start_method("spawn", force=True)
        server_args = SimpleNamespace(base_gpu_id=base_gpu_id, numa_node=numa_node, device=device)
        pipes = [mp.Pipe() for _ in range(2)]
        self.processes = []
        signal.signal(signal.SIGQUIT, self._kill_process_tree)
        if dp_size > 1:
            writers = [writer for _, writer in pipes]
            self._start(mp.Process(target=run_data_parallel_controller_process, args=(server_args, writers)))
        else:
            for rank, (_, writer) in enumerate(pipes):
                with maybe_reindex_device_id(base_gpu_id + rank) as gpu_id:
                    process = mp.Process(target=run_scheduler_process, args=(server_args, gpu_id, rank, writer))
                    with numa_utils.configure_subprocess(server_args, gpu_id):
                        self._start(process)
        self.detokenizer = mp.Process(target=time.sleep, args=(600,))
        self._start(self.detokenizer)
        self.schedulers = [(*reader.recv(), reader) for reader, _ in pipes]

    def _kill_process_tree(self, *_):
        for process in self.processes:
            process.kill()
        os._exit(128 + signal.SIGQUIT)

    def _start(self, process):
        process.start()
        self.processes.append(process)

    def shutdown(self):
        for _, _, reader in self.schedulers:
            reader.send(None)
        self.detokenizer.kill()
        for process in self.processes:
            process.join()
