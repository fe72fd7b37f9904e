from contextlib import contextmanager


@contextmanager
def configure_subprocess(server_args, gpu_id: int):
    print("SGLang starts a scheduler", flush=True)
    yield


def numa_bind_to_node(node: int):
    print("SGLang binds to a node", flush=True)
