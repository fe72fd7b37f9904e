"""Which processes use which GPU, from files: a fake root with /proc, /sys/class/kfd and fdinfo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from affinity_plugins.devices.process_files import ProcessFiles

from affinity.devices import Evidence, Gpu, GpuUse
from affinity.topology import PciAddress

FIRST, SECOND = PciAddress.parse("0000:1b:00.0"), PciAddress.parse("0000:3b:00.0")
HOST = "pid:[4026531836]"


@attrs.frozen
class Root:
    """A root directory, in which a test writes processes and devices."""

    path: Path

    def put(self, name: str, text: str) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def link(self, name: str, target: str) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(target)

    def process(self, pid: int, *files: str) -> None:
        """A process with these files open, from descriptor 3 on."""
        (self.path / f"proc/{pid}/fd").mkdir(parents=True)
        for number, file in enumerate(files, 3):
            self.link(f"proc/{pid}/fd/{number}", file)

    def nvidia(self, gpu: PciAddress, minor: int) -> None:
        text = f"Model: \t\t H100\nBus Location: \t {gpu}\nDevice Minor: \t {minor}\n"
        self.put(f"proc/driver/nvidia/gpus/{gpu}/information", text)

    def drm(self, gpu: PciAddress, name: str) -> None:
        (self.path / f"sys/devices/{gpu}/drm/{name}").mkdir(parents=True)
        self.link(f"sys/devices/{gpu}/drm/{name}/device", f"../../../{gpu}")
        self.link(f"sys/class/drm/{name}", f"../../devices/{gpu}/drm/{name}")

    def kfd_gpu(self, node: int, number: int, location: int) -> None:
        directory = f"sys/class/kfd/kfd/topology/nodes/{node}"
        self.put(f"{directory}/gpu_id", f"{number}\n")
        self.put(f"{directory}/properties", f"cpu_cores_count 0\ndomain 0\nlocation_id {location}\n")

    def uses(self, vendor: str, *gpus: PciAddress) -> list[GpuUse]:
        return ProcessFiles(str(self.path)).uses([Gpu(pci, vendor) for pci in gpus or (FIRST, SECOND)])


@pytest.fixture
def root(tmp_path: Path) -> Root:
    made = Root(tmp_path)
    made.link("proc/self/ns/pid", HOST)
    return made


def shown(uses: list[GpuUse]) -> set[tuple[int | None, PciAddress | None, str]]:
    return {(use.pid, use.gpu, use.evidence.value) for use in uses}


# ---------------------------------------------------------------- open files


def test_a_device_file_is_weak_evidence_and_its_number_is_no_ordinal(root: Root) -> None:
    """The driver shows which GPU a minor number is; a process may have those of all GPUs open."""
    root.nvidia(FIRST, 1)
    root.nvidia(SECOND, 0)
    root.process(10, "/dev/null", "/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia0")
    root.process(11, "/dev/nvidia0", "/dev/nvidia1", "socket:[7]")
    root.process(12, "/dev/nvidiactl", "/dev/nvidia10", "/dev/nvidia-uvm")
    found = root.uses("nvidia")
    assert shown(found) == {(10, SECOND, "may use"), (11, SECOND, "may use"), (11, FIRST, "may use")}
    assert found[0].reason == "has /dev/nvidia0 open"
    assert shown(root.uses("nvidia", SECOND)) == {(10, SECOND, "may use"), (11, SECOND, "may use")}


def test_a_gpu_whose_number_is_not_shown_is_a_note(root: Root) -> None:
    """Where the driver is there: without one, nothing is missed."""
    assert root.uses("nvidia") == []
    root.put("dev/nvidiactl", "")
    root.nvidia(FIRST, 0)
    (note,) = root.uses("nvidia")
    assert (note.pid, note.gpu, note.evidence) == (None, SECOND, Evidence.UNKNOWN)
    assert "/proc/driver/nvidia/gpus" in note.reason


def test_a_client_of_drm_uses_its_gpu(root: Root) -> None:
    """fdinfo names it; a driver without these fields leaves an open device file."""
    root.drm(FIRST, "renderD128")
    root.drm(SECOND, "renderD129")
    root.drm(SECOND, "card1")
    root.link("sys/class/drm/card1-DP-1", "../../devices/nothing")
    root.process(20, "/dev/dri/renderD128")
    root.put("proc/20/fdinfo/3", f"pos:\t0\ndrm-driver:\txe\ndrm-client-id:\t3\ndrm-pdev:\t{FIRST}\n")
    root.process(21, "/dev/dri/renderD129", "/dev/dri/card1")
    root.put("proc/21/fdinfo/3", "pos:\t0\nflags:\t02\n")
    found = root.uses("intel")
    assert shown(found) == {(20, FIRST, "uses"), (21, SECOND, "may use")}
    assert found[0].reason == "is a DRM client of /dev/dri/renderD128"


def test_what_may_not_be_read_is_a_note_and_hides_nothing_else(tmp_path: Path) -> None:
    """As another user, whose own processes are found."""
    if os.geteuid() != 0:
        pytest.skip("becomes another user, which takes root; continuous integration is")
    root = Root(tmp_path)
    root.nvidia(FIRST, 0)
    root.process(30, "/dev/nvidia0")
    root.process(31, "/dev/nvidia0")
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_mode & 0o777 == 0o700:  # pytest's own
            directory.chmod(0o755)
    (tmp_path / "proc/31/fd").chmod(0o700)
    text = f"""
import os
from affinity_plugins.devices.process_files import ProcessFiles
from affinity.devices import Gpu
from affinity.topology import PciAddress
os.setuid(65534)  # after the imports, which this user may be unable to read
gpu = Gpu(PciAddress.parse({str(FIRST)!r}), "nvidia")
for use in ProcessFiles({str(tmp_path)!r}).uses([gpu]): print(use.pid, use.reason)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    first, note = done.stdout.splitlines()
    assert first == "30 has /dev/nvidia0 open", done.stderr
    assert note.startswith("None ")
    assert "CAP_SYS_PTRACE" in note


# ---------------------------------------------------------------- KFD


@pytest.fixture
def kfd(root: Root) -> Root:
    """Two GPUs of AMD: KFD's numbers and PCI locations (bus 27 and 59)."""
    root.put("sys/class/kfd/kfd/topology/nodes/0/gpu_id", "0\n")
    root.kfd_gpu(1, 5001, 27 << 8)
    root.kfd_gpu(2, 5002, 59 << 8)
    (root.path / "sys/class/kfd/kfd/proc").mkdir()
    return root


def test_a_queue_or_memory_is_a_use_and_an_open_kfd_is_none(kfd: Root) -> None:
    """It lists every process that has opened /dev/kfd, with a file of zero bytes for each GPU."""
    base = "sys/class/kfd/kfd/proc"
    for pid in (40, 41, 42):
        kfd.process(pid, "/dev/kfd")
        kfd.put(f"{base}/{pid}/vram_5001", "0\n")
        kfd.put(f"{base}/{pid}/vram_5002", "1048576\n" if pid == 41 else "0\n")
    kfd.put(f"{base}/42/queues/0/gpuid", "5001\n")
    found = kfd.uses("amd")
    assert shown(found) == {(41, SECOND, "uses"), (42, FIRST, "uses")}
    assert [use.reason for use in found] == ["has memory of it (KFD)", "has a queue on it (KFD)"]


def test_a_second_context_of_a_process_counts(kfd: Root) -> None:
    """Newer kernels list it below the process."""
    kfd.process(43, "/dev/kfd")
    kfd.put("sys/class/kfd/kfd/proc/43/context_1/queues/7/gpuid", "5002\n")
    assert shown(kfd.uses("amd")) == {(43, SECOND, "uses")}


def test_a_part_of_a_gpu_is_the_gpu(kfd: Root) -> None:
    """A partition counts up the function of the PCI address."""
    kfd.kfd_gpu(3, 5003, 59 << 8 | 2)
    kfd.process(44, "/dev/kfd")
    kfd.put("sys/class/kfd/kfd/proc/44/queues/0/gpuid", "5003\n")
    assert shown(kfd.uses("amd")) == {(44, SECOND, "uses")}


def test_where_kfd_answers_no_other_process_is_looked_at(kfd: Root) -> None:
    """ROCm opens the device files of every GPU; one of Intel beside it has its own processes."""
    kfd.drm(FIRST, "renderD128")
    kfd.process(45, "/dev/kfd", "/dev/dri/renderD128")
    assert kfd.uses("amd") == []


@pytest.mark.parametrize("files", [(), ("/dev/null",)], ids=["none-here", "another-one-here"])
def test_pids_of_the_host_are_not_those_of_a_container(kfd: Root, files: tuple[str, ...]) -> None:
    """KFD lists PIDs of the machine. Here the number is free, or another process's: open files show what there is."""
    kfd.put("sys/class/kfd/kfd/proc/46/queues/0/gpuid", "5001\n")
    if files:
        kfd.process(46, *files)
    kfd.drm(FIRST, "renderD128")
    kfd.process(7, "/dev/kfd", "/dev/dri/renderD128")
    foreign, here = kfd.uses("amd")
    assert (foreign.pid, foreign.is_here, foreign.evidence) == (46, False, Evidence.UNKNOWN)
    assert foreign.reason.endswith("PID 46 is not in this PID namespace, or not shown here")
    assert (here.pid, here.is_here, here.evidence) == (7, True, Evidence.MAY_USE)


def test_an_empty_list_in_a_container_is_no_answer(kfd: Root) -> None:
    """It may mean that none is visible: open files are looked at."""
    kfd.drm(FIRST, "renderD128")
    kfd.process(47, "/dev/kfd", "/dev/dri/renderD128")
    assert kfd.uses("amd") == []
    (kfd.path / "proc/self/ns/pid").unlink()
    kfd.link("proc/self/ns/pid", "pid:[4026532999]")
    assert shown(kfd.uses("amd")) == {(47, FIRST, "may use")}
