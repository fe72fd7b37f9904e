"""How fast an NVIDIA GPU reaches pinned memory of this process, by CUDA's driver API (cuda-bindings).

The caller's CPUs and memory policy decide where the memory, the launch queue and the thread are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from affinity.errors import AffinityError
from affinity.kernel.memory_speed import new_pages

_SMALL = 4096  # bytes of a small copy

#: A kernel that does nothing, for any GPU since Maxwell: the driver compiles it.
_EMPTY = b".version 6.0\n.target sm_50\n.address_size 64\n.visible .entry empty() { ret; }\n\0"


class GpuSpeed(NamedTuple):
    """to_gpu, from_gpu: bytes per second of large copies; small_copy, launch: seconds until one of them is done."""

    to_gpu: float
    from_gpu: float
    small_copy: float
    launch: float


def measure(pci_bus_id: str, size: int, seconds: float = 0.2) -> GpuSpeed:
    """Measure copies of `size` bytes, small copies and launches. Raise AffinityError with CUDA's own name of an error.

    ImportError, or an error of the loader, if cuda-bindings or the driver is missing.
    """
    from cuda.bindings import driver as cuda

    def call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
        code, *values = function(*arguments)
        if code != cuda.CUresult.CUDA_SUCCESS:
            raise AffinityError(f"{function.__name__}: {code.name}")
        return values[0] if values else None

    call(cuda.cuInit, 0)
    device = call(cuda.cuDeviceGetByPCIBusId, pci_bus_id.encode())
    call(cuda.cuCtxSetCurrent, call(cuda.cuDevicePrimaryCtxRetain, device))
    stream = call(cuda.cuStreamCreate, 0)
    host = new_pages(size)
    address = host.ctypes.data
    call(cuda.cuMemHostRegister, address, size, 0)
    memory = call(cuda.cuMemAlloc, size)
    empty = call(cuda.cuModuleGetFunction, call(cuda.cuModuleLoadData, _EMPTY), b"empty")

    def done(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Callable[[], None]:
        def run() -> None:
            call(function, *arguments)
            call(cuda.cuStreamSynchronize, stream)

        return run

    def copy_to_gpu(length: int) -> Callable[[], None]:
        return done(cuda.cuMemcpyHtoDAsync, memory, address, length, stream)

    speed = GpuSpeed(
        to_gpu=size / time_of(copy_to_gpu(size), seconds),
        from_gpu=size / time_of(done(cuda.cuMemcpyDtoHAsync, address, memory, size, stream), seconds),
        small_copy=time_of(copy_to_gpu(_SMALL), seconds),
        launch=time_of(done(cuda.cuLaunchKernel, empty, 1, 1, 1, 1, 1, 1, 0, stream, 0, 0), seconds),
    )
    call(cuda.cuMemHostUnregister, address)
    call(cuda.cuMemFree, memory)
    call(cuda.cuDevicePrimaryCtxRelease, device)
    return speed


def time_of(run: Callable[[], None], seconds: float) -> float:
    """Return the mean time of a call, over calls for `seconds`; the first, which may prepare things, does not count."""
    run()
    began = now = time.perf_counter()
    count = 0
    while now - began < seconds:
        run()
        count += 1
        now = time.perf_counter()
    return (now - began) / count
