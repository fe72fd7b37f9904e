from contextlib import contextmanager


def get_auto_numa_nodes():
    """As vLLM's, on a machine with several nodes: none in a process with fewer CPUs than the machine."""
    import os

    return [0, 0] if len(os.sched_getaffinity(0)) == os.cpu_count() else None


@contextmanager
def configure_subprocess(vllm_config, local_rank: int, dp_local_rank: int | None = None, process_kind: str = "worker"):
    parallel_config = vllm_config.parallel_config
    if parallel_config.numa_bind:
        parallel_config.numa_bind_nodes = parallel_config.numa_bind_nodes or get_auto_numa_nodes()
        if parallel_config.numa_bind_nodes is None:
            raise RuntimeError("NUMA binding was requested, but vLLM could not detect the GPU-to-NUMA topology")
        print(f"vLLM binds {process_kind} {local_rank}", flush=True)
    yield
