"""Stand-ins for the modules that SGLang imports and only a machine with a GPU has. On PYTHONPATH in its tests alone.

They are empty: any name of theirs is an object that can be called, indexed and used as a decorator, and does nothing.
"""

import importlib.util
import os
import sys
import time
import types
from importlib.machinery import ModuleSpec

MISSING = ("triton", "sgl_kernel", "flashinfer", "torchvision", "torchao", "cuda", "outlines", "llguidance")


class Anything(type):
    """A class whose attributes, items and instances are itself, and which returns a function that it decorates."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __call__(cls, *args, **kwargs):
        return args[0] if len(args) == 1 and not kwargs and callable(args[0]) else cls

    def __getitem__(cls, key):
        return cls

    def __iter__(cls):
        return iter(())


class Nothing(metaclass=Anything):
    backend = "cpu"  # of triton's current target


class StandIn(types.ModuleType):
    __version__ = "99.0.0"
    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing


class Finder:
    """Finds the modules that are not installed, after every other finder."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


class Scheduler:
    """In place of SGLang's: reports its process to the test, and waits until the test has read it from /proc."""

    metrics_reporter = async_d2h_worker = Nothing
    gracefully_exit = False
    run_event_loop = Nothing

    def __init__(self, server_args, port_args):
        from sglang.srt.runtime_context import get_parallel

        ready = os.path.join(os.environ["SGLANG_TEST_FOLDER"], str(get_parallel().dp_rank or get_parallel().tp_rank))
        with open(f"{ready}.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(f"{ready}.new", ready)
        while not os.path.exists(f"{ready}.read"):
            time.sleep(0.01)

    def get_init_info(self):
        return {"status": "ready", "max_total_num_tokens": 1, "max_req_input_len": 1}


class SchedulerModule:
    """Finds `sglang.srt.managers.scheduler`, and puts the other Scheduler in its place."""

    def find_spec(self, name, path=None, target=None):
        if name != "sglang.srt.managers.scheduler" or "SGLANG_TEST_FOLDER" not in os.environ:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.Scheduler = Scheduler

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, SchedulerModule())
sys.meta_path.append(Finder())
