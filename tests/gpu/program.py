"""A CUDA program without a library but the driver's: `program.py MODE PCI_BUS_ID`. It prints a line of JSON.

run: copy to the GPU and back. before, after: the same, bound by `affinity.bind()` before or after there is a context.
wait: as run, then wait for the end of stdin.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

SIZE = 8 << 20


class Cuda:
    """The driver API, by ctypes. Source: CUDA Driver API."""

    def __init__(self, pci_bus_id: str) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", ctypes.c_uint(0))
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGetByPCIBusId", ctypes.byref(device), pci_bus_id.encode())
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function: its second version, which is what cuda.h means, if there is one."""
        function = getattr(self._library, f"{name}_v2", None) or getattr(self._library, name)
        code = function(*arguments)
        if code:
            raise RuntimeError(f"{name}: CUDA error {code}")

    def pinned(self) -> int:
        """Return the address of `SIZE` bytes of pinned memory, written by this thread."""
        address = ctypes.c_void_p()
        self.call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(SIZE), ctypes.c_uint(0))
        assert address.value is not None
        ctypes.memset(address.value, 7, SIZE)
        return address.value

    def copy_there_and_back(self, pinned: int) -> bool:
        """Return whether what comes back from the GPU is what was sent."""
        stream, memory = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(0))
        self.call("cuMemAlloc", ctypes.byref(memory), ctypes.c_size_t(SIZE))
        for name, to, origin in (("HtoD", memory.value, pinned), ("DtoH", pinned, memory.value)):
            arguments = (ctypes.c_void_p(to), ctypes.c_void_p(origin), ctypes.c_size_t(SIZE), stream)
            self.call(f"cuMemcpy{name}Async", *arguments)
            self.call("cuStreamSynchronize", stream)
            if name == "HtoD":
                ctypes.memset(pinned, 0, SIZE)
        return ctypes.string_at(pinned, SIZE) == b"\7" * SIZE


def page_nodes(address: int) -> list[int]:
    """Return the distinct nodes of the pages of pinned memory; below 0 what move_pages(2) has of a page instead."""
    from affinity.kernel.syscalls import page_nodes as nodes

    return sorted(set(nodes(0, range(address, address + SIZE, os.sysconf("SC_PAGE_SIZE")))))


def main(mode: str, pci_bus_id: str) -> None:
    """Run, and print where the threads may run and the pinned memory is."""
    import affinity

    report = affinity.bind(gpu=pci_bus_id) if mode == "before" else None
    cuda = Cuda(pci_bus_id)
    if mode == "after":
        cuda.pinned()
        report = affinity.bind(gpu=pci_bus_id)
    pinned = cuda.pinned()
    shown = {
        "pid": os.getpid(),
        "copied": cuda.copy_there_and_back(pinned),
        "threads": {tid: sorted(os.sched_getaffinity(int(tid))) for tid in os.listdir("/proc/self/task")},
        "pinned": page_nodes(pinned),
        "node": None if report is None else report.launch.gpus[0].node,
        "satisfied": None if report is None else report.satisfied,
        "report": str(report),
    }
    print(json.dumps(shown), flush=True)
    if mode == "wait":
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
