"""`affinity gather`: what a machine is goes into the archive; whose machine it is does not."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import attrs
import pytest
from test_machines import facts, with_gpu_memory

from affinity import CpuSet, Host, NodeSet
from affinity.errors import SystemFileError
from affinity.testing import machines, trees
from affinity.testing.machines import Machine
from affinity.topology import TopologyError
from affinity.topology.archive import write_archive

SECRET = "serial-4711"


def affinity_gather(archive: Path) -> subprocess.CompletedProcess[str]:
    """The command, as an operator runs it."""
    main = "import sys; from affinity.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", main, "gather", str(archive)], capture_output=True, text=True, check=False
    )


@pytest.mark.affinity_machines("gb200", "vm-known-bridge", "power9-ac922", "numa-fake")
@pytest.mark.parametrize("lists", [True, False], ids=["lists", "masks"])
def test_a_gathered_machine_is_the_machine(machine: Machine, lists: bool, tmp_path: Path) -> None:
    """Also what was allowed there."""
    machine = attrs.evolve(with_gpu_memory(machine), allowed_cpus=CpuSet.parse("0-15"), allowed_nodes=NodeSet([0]))
    root, archive = trees.write(machine, tmp_path / "root", lists=lists), str(tmp_path / "m.tar.gz")
    write_archive(archive, root)
    there, back = Host.from_root(root), Host.from_root(archive)
    assert facts(back.topology) == facts(there.topology)
    assert (back.allowed_cpus, back.allowed_nodes) == (there.allowed_cpus, there.allowed_nodes)
    assert facts(machines.load(archive)) == facts(there.topology)


def test_this_very_machine_can_be_gathered(tmp_path: Path) -> None:
    """The real files, through the command."""
    archive = tmp_path / "here.tar.gz"
    done = affinity_gather(archive)
    assert done.returncode == 0, done.stderr
    assert facts(Host.from_root(str(archive)).topology)[0] == facts(Host.live().topology)[0]
    assert str(archive) in done.stdout


def test_nothing_private_is_in_the_archive(tmp_path: Path) -> None:
    """Files with serial numbers, names and other processes' memory lie beside those that are wanted."""
    dgx = machines.get("dgx-h100")
    gpus = tuple(attrs.evolve(gpu, memory_node=1) for gpu in dgx.gpus)
    root = Path(trees.write(attrs.evolve(dgx, gpus=gpus), tmp_path / "root"))
    gpu = (root / "sys/bus/pci/devices/0000:1b:00.0").resolve()
    for private in (gpu / "serial_number", gpu / "unique_id", root / "sys/devices/system/cpu/cpu0/uevent"):
        private.write_text(SECRET)
    (root / "etc").mkdir()
    (root / "etc/hostname").write_text(SECRET)
    with (root / "proc/self/status").open("a") as status:
        status.write(f"Groups:\t{SECRET}\n")
    driver = root / "proc/driver/nvidia/gpus/0000:1b:00.0"
    (driver / "information").write_text(SECRET)
    with (driver / "numa_status").open("a") as status:
        status.write(f"Address:   {SECRET}\n")
    paths = write_archive(str(tmp_path / "m.tar.gz"), str(root))
    assert not [p for p in paths if not p.startswith("sys/") and p != "proc/self/status" and "numa_status" not in p]
    with tarfile.open(tmp_path / "m.tar.gz") as tar:
        for member in tar:
            assert (member.uname, member.gname, member.mtime) == ("", "", 0)
            file = tar.extractfile(member) if member.isfile() else None
            content = file.read() if file else b""
            assert SECRET.encode() not in content
            assert b"worker" not in content  # the process's name
            assert b"MemFree" not in content
    assert str(tmp_path).encode() not in (tmp_path / "m.tar.gz").read_bytes()


def test_a_hypervisors_identifiers_between_device_and_bridge_are_left_out(tmp_path: Path) -> None:
    """On Azure the path to a GPU has a UUID in it."""
    machine = machines.get("azure-ndv4")
    root = tmp_path / "root"
    trees.write(machine, root)
    bus = root / "sys/devices/VMBUS:00/47505500-0001-0001-3130-444531303244"
    bus.mkdir(parents=True)
    (root / "sys/devices/pci0001:00").rename(bus / "pci0001:00")
    link = root / "sys/bus/pci/devices/0001:00:00.0"
    link.unlink()
    link.symlink_to(f"../../../devices/VMBUS:00/{bus.name}/pci0001:00/0001:00:00.0")
    paths = write_archive(str(tmp_path / "m.tar.gz"), str(root))
    assert not [p for p in paths if "47505500" in p]
    assert facts(Host.from_root(str(tmp_path / "m.tar.gz")).topology) == facts(machine.topology())


def test_an_archive_of_another_tool_with_one_directory_on_top_is_read(tmp_path: Path) -> None:
    """hwloc-gather-topology packs `name/sys/…`."""
    machine = attrs.evolve(machines.get("azure-ndv2"), allowed_nodes=NodeSet([1]))
    trees.write(machine, tmp_path / "host7")
    with tarfile.open(tmp_path / "host7.tar.bz2", "w:bz2") as tar:
        tar.add(tmp_path / "host7", "host7")
    host = Host.from_root(str(tmp_path / "host7.tar.bz2"), allowed_cpus=CpuSet.parse("0-3"))
    assert facts(host.topology) == facts(machine.topology())
    assert (str(host.allowed_cpus), str(host.allowed_nodes)) == ("0-3", "1")


def test_a_capture_of_an_old_kernel_and_of_odd_files_reads_the_same(tmp_path: Path) -> None:
    """Offline CPUs in `cpuN/online` alone, packages without a number, and a note where a row is left out."""
    machine = attrs.evolve(machines.get("vm-known-bridge"), offline=CpuSet([3, 17]))
    root = Path(trees.write(machine, tmp_path / "root"))
    cpus, nodes = root / "sys/devices/system/cpu", root / "sys/devices/system/node"
    (cpus / "online").unlink()
    (nodes / "node1/distance").write_text("10\n")
    for name in cpus.glob("cpu*/topology/physical_package_id"):
        name.write_text("-1\n")
        (name.parent / "package_cpus_list").unlink()  # the mask is left
    write_archive(str(tmp_path / "m.tar.gz"), str(root))
    there, back = Host.from_root(str(root)), Host.from_root(str(tmp_path / "m.tar.gz"))
    assert facts(back.topology) == facts(there.topology)
    assert str(back.topology.online) == "0-2,4-16,18-31"
    assert len({cpu.package for cpu in back.topology.cpus.values()}) == 2
    (note,) = back.notes
    assert "node1/distance" in note


def member(name: str, *, link: str = "", kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = (tarfile.SYMTYPE, link) if link else (kind, "")
    entry.size = 4 if entry.isreg() else 0
    return entry


@pytest.mark.parametrize(("members", "refused"), [
    ([member("../evil")], "'../evil' in it is outside"),
    ([member("sys/a/../../../evil")], "'sys/a/../../../evil' in it is outside"),
    ([member("sys/l", link="../..")], "'sys/l' in it is a link out of its directory"),
    ([member("sys/l", link="/etc")], "'sys/l' in it is a link out of its directory"),
    ([member("sys/l", link="m/.."), member("sys/m", link="../..")], "'sys/l' in it is a link out of its directory"),
    ([member("l", link="m/../.."), member("m", link="sys"), member("sys/f")], "'l' in it is a link out"),
    ([member("sys/l", link="../.."), member("sys/l/evil")], "is a link out of its directory|File exists"),
    ([member("sys/fifo", kind=tarfile.FIFOTYPE)], "'sys/fifo' in it is outside its directory, or no file"),
    ([member("sys/hard", kind=tarfile.LNKTYPE)], "'sys/hard' in it is outside its directory, or no file"),
])  # fmt: skip
def test_an_archive_that_leaves_its_directory_is_refused(
    tmp_path: Path, members: list[tarfile.TarInfo], refused: str
) -> None:
    """A report from a stranger must not write or read anywhere else; nothing is written through a link."""
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        for entry in members:
            tar.addfile(entry, io.BytesIO(b"evil") if entry.isreg() else None)
    with pytest.raises((TopologyError, SystemFileError), match=refused):
        Host.from_root(str(tmp_path / "evil.tar.gz"))
    assert not list(tmp_path.parent.glob("evil*"))
    assert not Path(tempfile.gettempdir(), "evil").exists()


def test_an_absolute_path_in_an_archive_is_inside_its_directory(tmp_path: Path) -> None:
    """As of tar -P."""
    trees.write(machines.get("vm-one-gpu"), tmp_path / "root")
    with tarfile.open(tmp_path / "m.tar", "w") as tar:
        for path in sorted((tmp_path / "root").rglob("*")):
            entry = tar.gettarinfo(path)
            entry.name = f"/{path.relative_to(tmp_path / 'root')}"
            tar.addfile(entry, io.BytesIO(path.read_bytes()) if entry.isreg() else None)
    assert facts(Host.from_root(str(tmp_path / "m.tar")).topology) == facts(machines.get("vm-one-gpu").topology())


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00broken"])
def test_a_file_that_is_no_archive_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    """With what was expected."""
    (tmp_path / "m.tar.gz").write_bytes(content)
    with pytest.raises(TopologyError, match=r"m\.tar\.gz.*affinity gather"):
        Host.from_root(str(tmp_path / "m.tar.gz"))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A second gather to the same name is a usage error."""
    (tmp_path / "m.tar.gz").write_text("precious")
    done = affinity_gather(tmp_path / "m.tar.gz")
    assert done.returncode == 2
    assert "m.tar.gz: File exists" in done.stderr
    assert (tmp_path / "m.tar.gz").read_text() == "precious"


def test_a_root_that_is_no_machine_is_refused(tmp_path: Path) -> None:
    """And leaves no archive behind."""
    with pytest.raises(TopologyError, match="online"):
        write_archive(str(tmp_path / "m.tar.gz"), str(tmp_path))
    assert not (tmp_path / "m.tar.gz").exists()
