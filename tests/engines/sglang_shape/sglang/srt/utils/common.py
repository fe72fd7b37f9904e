import os
from contextlib import contextmanager


def set_gpu_proc_affinity(gpu_id: int):
    print("SGLang sets CPUs", flush=True)


@contextmanager
def maybe_reindex_device_id(gpu_id: int):
    """As `platforms/cuda.py:reindex_device_id`."""
    if os.environ.get("SGLANG_ONE_VISIBLE_DEVICE_PER_PROCESS") != "1":
        yield gpu_id
        return
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = before.split(",")[gpu_id] if before else str(gpu_id)
    yield 0
    if before:
        os.environ["CUDA_VISIBLE_DEVICES"] = before
    else:
        del os.environ["CUDA_VISIBLE_DEVICES"]
