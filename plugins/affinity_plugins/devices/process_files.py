"""Which processes use which GPU, as files show it: KFD, clients of DRM, and open device files.

Sources: drivers/gpu/drm/amd/amdkfd/kfd_process.c and kfd_topology.c (`/sys/class/kfd`); Documentation/gpu/
drm-usage-stats.rst (fdinfo); README of NVIDIA's driver, "The /proc Interface"; proc(5); include/linux/proc_ns.h.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from affinity.devices import EVERY_PROCESS, Evidence, Gpu, GpuUse, ProcessFilter
from affinity.topology import PciAddress

NVIDIA_CONTROL, AMD_CONTROL = "/dev/nvidiactl", "/dev/kfd"

_HIDDEN = "processes may be missing: the open files of some cannot be read, which takes CAP_SYS_PTRACE (root)"
_NO_NUMBER = "its processes are not known: /proc/driver/nvidia/gpus does not show which /dev/nvidiaN it is"
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO


class ProcessFiles:
    """The files of a machine, below `root`: those of its processes that are asked about, and those of its drivers."""

    def __init__(self, root: str = "/", asked: ProcessFilter = EVERY_PROCESS) -> None:
        self._root, self._asked = root, asked

    def uses(self, gpus: Sequence[Gpu]) -> list[GpuUse]:
        """Return the processes of these GPUs: from KFD for those of AMD if it answers, else from open files."""
        amd = [gpu for gpu in gpus if gpu.vendor == "amd"]
        shown = self._kfd(amd) if amd else None
        if shown is None:
            return self.open_files(gpus)
        rest = [gpu for gpu in gpus if gpu.vendor != "amd"]
        if not self.shows_every_process(shown):
            rest += amd
        return shown + self.open_files(rest)

    def shows_every_process(self, uses: Sequence[GpuUse]) -> bool:
        """Return whether a driver's list can be complete: in a container it may be empty, or of other containers."""
        return all(use.is_here for use in uses) and (bool(uses) or not self._in_pid_namespace)

    def confirmed(self, pid: int, gpu: PciAddress, reason: str, control: str) -> GpuUse:
        """Return the use that a driver lists, if the PID is one of this namespace.

        In a container a driver may list the PIDs of the host. A process of the same number here is another one, unless
        it has the vendor's control device open.
        """
        try:
            is_here = any(link == control for _, link in self._descriptors(pid))
        except FileNotFoundError:
            is_here = False
        except PermissionError:  # another user's
            is_here = not self._in_pid_namespace
        if is_here:
            return GpuUse(pid, gpu, Evidence.USES, reason)
        here = f"PID {pid} is not in this PID namespace, or not shown here"
        return GpuUse(pid, gpu, Evidence.UNKNOWN, f"{reason}: {here}", is_here=False)

    # -- KFD

    def _kfd(self, gpus: Sequence[Gpu]) -> list[GpuUse] | None:
        """Return the processes that KFD lists with a queue or memory on these GPUs, None if it lists none at all.

        To open /dev/kfd is enough to be listed.
        """
        try:
            pids = os.listdir(self._path("sys/class/kfd/kfd/proc"))
        except OSError:
            return None
        known = self._kfd_gpus([gpu.pci for gpu in gpus if gpu.pci is not None])
        found = []
        for pid in sorted((pid for pid in pids if pid.isdecimal() and self._asked.has(int(pid))), key=int):
            for gpu, reason in self._kfd_evidence(f"sys/class/kfd/kfd/proc/{pid}", known).items():
                found.append(self.confirmed(int(pid), gpu, reason, AMD_CONTROL))
        return found

    def _kfd_gpus(self, gpus: Sequence[PciAddress]) -> dict[str, PciAddress]:
        """Return the GPU of each of KFD's numbers. A part of a GPU counts up the function of its address."""
        found = {}
        for node in self._listed("sys/class/kfd/kfd/topology/nodes"):
            directory = f"sys/class/kfd/kfd/topology/nodes/{node}"
            values = dict(line.split(maxsplit=1) for line in self._text(f"{directory}/properties").splitlines())
            location = int(values.get("location_id", 0))
            address = PciAddress(int(values.get("domain", 0)), location >> 8, location >> 3 & 31, location & 7)
            whole = PciAddress(address.domain, address.bus, address.device, 0)
            gpu = next((candidate for candidate in (address, whole) if candidate in gpus), None)
            if gpu is not None:
                found[self._text(f"{directory}/gpu_id").strip()] = gpu
        return found

    def _kfd_evidence(self, directory: str, known: Mapping[str, PciAddress]) -> dict[PciAddress, str]:
        found: dict[PciAddress, str] = {}
        for name in self._listed(directory):
            number = name.removeprefix("vram_")
            if number in known and self._text(f"{directory}/{name}").strip() not in ("", "0"):
                found[known[number]] = "has memory of it (KFD)"
            elif name.startswith("context_"):  # a process may have several
                found |= self._kfd_evidence(f"{directory}/{name}", known)
        for queue in self._listed(f"{directory}/queues"):
            number = self._text(f"{directory}/queues/{queue}/gpuid").strip()
            if number in known:
                found[known[number]] = "has a queue on it (KFD)"
        return found

    # -- open files

    def open_files(self, gpus: Sequence[Gpu]) -> list[GpuUse]:
        """Return the processes that have device files of these GPUs open, from the descriptors of every one asked."""
        addresses = {gpu.pci for gpu in gpus if gpu.pci is not None}
        pids = self._asked.files_of
        if not addresses or (pids is not None and not pids):
            return []
        files = {path: gpu for path, gpu in (*self._nvidia_files(), *self._drm_files()) if gpu in addresses}
        found: dict[GpuUse, None] = {}
        for gpu in gpus if os.path.exists(self._path(NVIDIA_CONTROL[1:])) else ():
            if gpu.vendor == "nvidia" and gpu.pci not in files.values():
                found[GpuUse(None, gpu.pci, Evidence.UNKNOWN, _NO_NUMBER)] = None
        if pids is None:
            pids = [int(name) for name in self._listed("proc") if name.isdecimal()] if files else ()
        for pid in sorted(pids) if files else ():
            try:
                for descriptor, link in self._descriptors(pid):
                    if link in files:
                        found[self._of_descriptor(pid, descriptor, link, files[link])] = None
            except PermissionError:
                found[GpuUse(None, None, Evidence.UNKNOWN, _HIDDEN)] = None
            except OSError:  # it has ended
                continue
        return list(found)

    def _of_descriptor(self, pid: int, descriptor: str, link: str, gpu: PciAddress) -> GpuUse:
        fields = {}
        if link.startswith("/dev/dri/"):
            lines = self._text(f"proc/{pid}/fdinfo/{descriptor}").splitlines()
            fields = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
        if "drm-client-id" in fields:
            address = PciAddress.try_parse(fields.get("drm-pdev", "")) or gpu
            return GpuUse(pid, address, Evidence.USES, f"is a DRM client of {link}")
        return GpuUse(pid, gpu, Evidence.MAY_USE, f"has {link} open")

    def _nvidia_files(self) -> Iterator[tuple[str, PciAddress]]:
        for gpu in self._listed("proc/driver/nvidia/gpus"):
            lines = self._text(f"proc/driver/nvidia/gpus/{gpu}/information").splitlines()
            fields = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
            address = PciAddress.try_parse(fields.get("Bus Location", gpu))
            if address is not None and "Device Minor" in fields:
                yield f"/dev/nvidia{fields['Device Minor']}", address

    def _drm_files(self) -> Iterator[tuple[str, PciAddress]]:
        for name in self._listed("sys/class/drm"):
            if name.startswith(("renderD", "card")) and "-" not in name:
                device = os.path.basename(os.path.realpath(self._path(f"sys/class/drm/{name}/device")))
                address = PciAddress.try_parse(device)
                if address is not None:
                    yield f"/dev/dri/{name}", address

    # -- files

    def _descriptors(self, pid: int) -> Iterator[tuple[str, str]]:
        """Yield the open files of a process. PermissionError for another user's, FileNotFoundError if it has ended."""
        directory = self._path(f"proc/{pid}/fd")
        for descriptor in os.listdir(directory):
            with suppress(FileNotFoundError):  # it was closed since
                yield descriptor, os.readlink(f"{directory}/{descriptor}")

    @property
    def _in_pid_namespace(self) -> bool:
        """Whether this process is in another PID namespace than the machine's first one."""
        try:
            return os.readlink(self._path("proc/self/ns/pid")) != _INITIAL_PID_NAMESPACE
        except OSError:
            return True

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name)

    def _listed(self, name: str) -> Iterable[str]:
        try:
            return sorted(os.listdir(self._path(name)))
        except OSError:
            return ()

    def _text(self, name: str) -> str:
        try:
            with open(self._path(name), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""
