"""`nvml`: NVIDIA GPUs as their driver shows them to this process, through nvidia-ml-py.

Source of every function and its errors: NVML API Reference. If a driver or a GPU does not support a function, that
evidence is missing. A GPU that cannot be reached does not affect the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any, cast

from affinity import CpuSet, Host, NodeSet, Settings
from affinity.devices import (
    EVERY_PROCESS,
    DeviceError,
    DeviceProvider,
    Evidence,
    Gpu,
    GpuUse,
    NodeEvidence,
    NodeSource,
    ProcessFilter,
)
from affinity.strategies import Support
from affinity.topology import Origin, PciAddress
from affinity_plugins.devices.process_files import NVIDIA_CONTROL, ProcessFiles

#: Files of a loaded driver; the last is that of WSL, which has no PCI function.
SIGNS = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg")

#: Limits of Linux (NR_CPUS, MAX_NUMNODES). The arrays are indexed by CPU and node numbers, which may be sparse.
MAX_CPUS, MAX_NODES = 8192, 1024


class Nvml(DeviceProvider):
    """GPUs of NVIDIA's driver. Each call initialises NVML once, and shuts it down also after an error."""

    driver_vendors = frozenset({"nvidia"})

    def supports(self, host: Host) -> Support:
        if host.topology.origin is not Origin.LIVE:
            return Support.no(
                "the topology is not this machine's; AFFINITY_DEVICES=nvml reads this machine's GPUs nevertheless"
            )
        if any(device.vendor == 0x10DE for device in host.topology.pci_devices):
            return Support.yes("an NVIDIA device in sysfs")
        sign = next((path for path in SIGNS if os.path.exists(path)), None)
        return Support.yes(f"{sign} is there") if sign else Support.no("no NVIDIA driver here")

    def devices(self, host: Host, settings: Settings) -> tuple[Gpu, ...]:
        pynvml = _imported()
        with _initialised(pynvml):
            return tuple(device.gpu() if isinstance(device, _Device) else device for device in _devices(pynvml))

    def processes(
        self, host: Host, gpus: Sequence[Gpu], asked: ProcessFilter = EVERY_PROCESS
    ) -> Sequence[GpuUse] | None:
        """Return the processes that NVML lists; those with open device files of a GPU whose list is not complete."""
        if host.topology.origin is not Origin.LIVE:
            return None
        pynvml = _imported()
        files = ProcessFiles(asked=asked)
        found: list[GpuUse] = []
        incomplete: list[Gpu] = []
        with _initialised(pynvml):
            devices = {device.address: device for device in _devices(pynvml) if isinstance(device, _Device)}
            for gpu in gpus:
                listed, problem = devices[gpu.pci].processes() if gpu.pci in devices else ({}, "")
                uses = [
                    files.confirmed(pid, gpu.pci, why, NVIDIA_CONTROL)
                    for pid, why in listed.items()
                    if gpu.pci is not None and asked.has(pid)
                ]
                found += uses
                if problem:
                    found.append(GpuUse(None, gpu.pci, Evidence.UNKNOWN, problem))
                if problem or gpu.pci not in devices or not files.shows_every_process(uses):
                    incomplete.append(gpu)
        return found + files.open_files(incomplete)


def _imported() -> ModuleType:
    try:
        import pynvml
    except ImportError as missing:
        raise DeviceError(f"nvml: {missing}; install numa-affinity[nvml] (nvidia-ml-py)") from missing
    return cast(ModuleType, pynvml)


def _devices(nvml: ModuleType) -> Iterator[_Device | Gpu]:
    """Yield each device that NVML counts and does not hide from this process."""
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as refused:
        raise _unusable(nvml, refused) from refused
    for index in range(count):
        device = _Device.at(nvml, index)
        if device is not None:
            yield device


@contextmanager
def _initialised(nvml: ModuleType) -> Iterator[None]:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as refused:
        raise _unusable(nvml, refused) from refused
    try:
        yield
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _unusable(nvml: ModuleType, refused: Any) -> DeviceError:
    remedy = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no libnvidia-ml.so.1: install the driver, or give the container its "
        "`utility` capability (NVIDIA_DRIVER_CAPABILITIES)",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "load the kernel module (nvidia-smi shows more)",
        nvml.NVML_ERROR_NO_PERMISSION: "this user may not open /dev/nvidiactl",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the library and the kernel module are of two versions: reboot",
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND: "the driver's library is too old",
    }.get(refused.value, "nvidia-smi shows more")
    return DeviceError(f"nvml: {refused}; {remedy}; GPUs are read from sysfs instead")


class _Device:
    """A GPU, valid while NVML is initialised."""

    def __init__(self, nvml: ModuleType, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._fault = ""

    @classmethod
    def at(cls, nvml: ModuleType, index: int) -> _Device | Gpu | None:
        """Return the device, a GPU with an error if it cannot be reached, None if it is hidden from this process."""
        try:
            device = cls(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            device._pci()
        except nvml.NVMLError as refused:
            # The device is counted, but the process's control group denies access.
            if refused.value == nvml.NVML_ERROR_NO_PERMISSION:
                return None
            return Gpu(None, "nvidia", label=f"GPU {index} of NVML", error=str(refused))
        return device

    def gpu(self) -> Gpu:
        nvml = self._nvml
        address, device_id = self._pci()
        node = nvml.NVML_AFFINITY_SCOPE_NODE
        cpus = self._cpus(NodeSource.NVML_CPU, node)
        # A driver older than scopes has one function, which means the same.
        if cpus.problem:
            unscoped = self._bits(NodeSource.NVML_CPU, "nvmlDeviceGetCpuAffinity", MAX_CPUS)
            cpus = cpus if unscoped.problem else unscoped
        evidence = (
            self._bits(NodeSource.NVML_MEMORY, "nvmlDeviceGetMemoryAffinity", MAX_NODES, node),
            cpus,
            self._cpus(NodeSource.NVML_SOCKET, nvml.NVML_AFFINITY_SCOPE_SOCKET),
            self._memory_node(),
        )
        return Gpu(
            address,
            "nvidia",
            device_id=device_id,
            uuid=self._call("nvmlDeviceGetUUID")[0],
            model=self._call("nvmlDeviceGetName")[0] or "",
            mig_uuids=self._mig(),
            evidence=evidence,
            error=self._fault,
        )

    def _call(self, function: str, *more: Any) -> tuple[Any, str]:
        """Return the result of the function and "", or None and the error. The error of a lost GPU is kept."""
        nvml = self._nvml
        call: Callable[..., Any] | None = getattr(nvml, function, None)
        if call is None:
            return None, "not in this nvidia-ml-py"
        try:
            return call(self._handle, *more), ""
        except nvml.NVMLError as refused:
            if refused.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED):
                self._fault = str(refused)
            return None, str(refused)

    @property
    def address(self) -> PciAddress:
        return self._pci()[0]

    def _pci(self) -> tuple[PciAddress, int]:
        info = self._nvml.nvmlDeviceGetPciInfo(self._handle)
        # NVML's low half is the vendor; function 0 is the GPU, 1 its sound.
        return PciAddress(info.domain, info.bus, info.device, 0), info.pciDeviceId >> 16

    def _bits(self, source: NodeSource, function: str, ids: int, *scope: int) -> NodeEvidence:
        words, problem = self._call(function, ids // 64, *scope)
        bits = sum(word << 64 * i for i, word in enumerate(words or ()))
        if not bits:
            return NodeEvidence(source, problem=problem or "has none")
        if source is NodeSource.NVML_MEMORY:
            return NodeEvidence(source, nodes=NodeSet.from_bits(bits))
        return NodeEvidence(source, cpus=CpuSet.from_bits(bits))

    def _cpus(self, source: NodeSource, scope: int) -> NodeEvidence:
        return self._bits(source, "nvmlDeviceGetCpuAffinityWithinScope", MAX_CPUS, scope)

    def _memory_node(self) -> NodeEvidence:
        """Return the node of the GPU's own memory, which is not the node of its CPUs."""
        node, problem = self._call("nvmlDeviceGetNumaNodeId")
        if node is None or not 0 <= node < MAX_NODES:
            return NodeEvidence(NodeSource.GPU_MEMORY, problem=problem or f"has node {node}")
        return NodeEvidence(NodeSource.GPU_MEMORY, nodes=NodeSet([node]))

    def _mig(self) -> tuple[str, ...]:
        return tuple(uuid for uuid, _ in self._parts() if uuid)

    def _parts(self) -> Iterator[tuple[str, _Device]]:
        """Yield the MIG devices of this GPU, each with its UUID."""
        mode, _ = self._call("nvmlDeviceGetMigMode")
        if not mode or not mode[0]:
            return
        most, _ = self._call("nvmlDeviceGetMaxMigDeviceCount")
        for index in range(most or 0):
            handle, _ = self._call("nvmlDeviceGetMigDeviceHandleByIndex", index)
            if handle is not None:
                part = _Device(self._nvml, handle)
                yield part._call("nvmlDeviceGetUUID")[0] or "", part

    def processes(self) -> tuple[dict[int, str], str]:
        """Return the PIDs that NVML lists, each with the evidence in words, and why the list is not complete.

        A GPU with MIG devices lists those of all of them to privileged users alone; each device lists its own.
        """
        found, problem = self._listed("")
        parts = list(self._parts())
        problems = []
        for uuid, part in parts:
            theirs, refused = part._listed(f", {uuid}")
            found |= theirs
            problems += [refused] if refused else []
        return found, "; ".join(problems) if parts else problem

    def _listed(self, part: str) -> tuple[dict[int, str], str]:
        graphics, _ = self._running("Graphics")  # not supported on many GPUs
        compute, problem = self._running("Compute")
        found = dict.fromkeys(graphics, f"NVML, graphics{part}") | dict.fromkeys(compute, f"NVML, compute{part}")
        return found, f"NVML does not list its processes: {problem}" if problem else ""

    def _running(self, kind: str) -> tuple[list[int], str]:
        """Return the PIDs of a list, or none and the error.

        Version 2 of the function is asked first: of version 3 drivers 530 and 535 had another layout. Source:
        nvmlProcessInfo_t in nvml.h of CUDA 12.2 and 12.3.
        """
        nvml = self._nvml
        problem = "not in this nvidia-ml-py"
        calls = [getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses_{version}", None) for version in ("v2", "v3")]
        for call in filter(None, calls):
            for _ in range(5):
                try:
                    return [process.pid for process in call(self._handle)], ""
                except nvml.NVMLError as refused:
                    problem = str(refused)
                    if refused.value != nvml.NVML_ERROR_INSUFFICIENT_SIZE:  # else it has grown between two calls
                        break
        return [], problem
