"""Network adapters, caches and free memory as sysfs shows them, and which adapter a GPU is next to."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import schemas
from click.testing import CliRunner

from affinity import CpuSet, Host
from affinity.api import plan
from affinity.cli._commands import group
from affinity.devices import Gpu
from affinity.devices.links import Link, link, nearest_nics, nic_node
from affinity.testing import machines, trees
from affinity.testing.machines.model import MachineNic
from affinity.topology import PciAddress, Topology, sysfs
from affinity.topology.archive import write_archive


def gpus(host: Host) -> tuple[Gpu, ...]:
    return plan(gpu="all", host=host).launch.gpus


def nearest(host: Host) -> list[str]:
    """For each GPU the names of the adapters next to it, and the link."""
    found = [nearest_nics(gpu, host.topology) for gpu in gpus(host)]
    return [f"{','.join(map(str, nics))} {how.name if how else '-'}" for nics, how in found]


def test_each_gpu_of_a_dgx_is_next_to_the_adapter_of_its_rail(tmp_path: Path) -> None:
    """As NVIDIA's user guide pairs them: behind the same switch, never one of the storage adapters."""
    host = Host.from_root(trees.write(machines.get("dgx-h100"), tmp_path))
    assert nearest(host) == [f"mlx5_{i} PIX" for i in (0, 3, 4, 5, 6, 9, 10, 11)]
    first, second = gpus(host)[0], gpus(host)[7]
    named = {str(nic): nic for nic in host.topology.nics}
    assert link(first, named["mlx5_1"], host.topology) is Link.NODE
    assert link(first, named["mlx5_7"], host.topology) is Link.SYS
    assert link(first, second, host.topology) is Link.SYS


def test_adapters_on_the_root_bus_of_their_gpus_are_behind_its_host_bridge(tmp_path: Path) -> None:
    """An AWS p4d shows an EFA and two GPUs on each root bus."""
    host = Host.from_root(trees.write(machines.get("aws-p4d"), tmp_path))
    assert nearest(host)[:3] == ["rdmap16s27 PHB", "rdmap16s27 PHB", "rdmap32s27 PHB"]


def test_several_switches_below_one_root_port_are_further_than_one(tmp_path: Path) -> None:
    """PXB, which is still nearer than the host bridge."""
    dgx = machines.get("dgx-h100")
    chain = [PciAddress.parse(a) for a in ("15:01.0", "16:00.0", "17:00.0", "18:00.0", "19:00.0")]
    far = MachineNic(PciAddress.parse("1a:00.0"), 0, ("mlx5_0",), bridges=tuple(chain))
    beside = MachineNic(PciAddress.parse("14:00.0"), 0, ("mlx5_1",), bridges=(PciAddress.parse("15:02.0"),))
    host = Host.from_root(trees.write(attrs.evolve(dgx, nics=(beside, far)), tmp_path))
    assert nearest(host)[0] == "mlx5_0 PXB"
    assert link(gpus(host)[0], host.topology.nics[0], host.topology) is Link.PHB


def test_among_adapters_of_other_nodes_those_at_the_least_distance_are_nearest(tmp_path: Path) -> None:
    """An adapter of the same package is nearer than one of the other."""
    machine = attrs.evolve(
        machines.get("dgx-a100"),
        nics=tuple(MachineNic(PciAddress.parse(f"f{n}:00.0"), n, (f"mlx5_{n}",)) for n in (0, 4, 7)),
    )
    host = Host.from_root(trees.write(machine, tmp_path))
    assert nearest(host) == ["mlx5_0 SYS"] * 4 + ["mlx5_7 NODE"] * 2 + ["mlx5_4,mlx5_7 SYS"] * 2


def test_an_adapter_of_unknown_node_is_next_to_no_gpu(tmp_path: Path) -> None:
    """Unknown is never node 0; where there is one node, that is it."""
    unknown = MachineNic(PciAddress.parse("00:09.0"), None, ("mlx5_0",))
    two = attrs.evolve(machines.get("dgx-h100"), nics=(unknown,))
    host = Host.from_root(trees.write(two, tmp_path / "two"))
    assert nic_node(host.topology.nics[0], host.topology) is None
    assert nearest(host)[0] == " -"
    one = attrs.evolve(machines.get("aws-g5"), nics=(attrs.evolve(unknown, pci=PciAddress.parse("21:00.0")),))
    assert nearest(Host.from_root(trees.write(one, tmp_path / "one")))[0] == "mlx5_0 NODE"


def test_interfaces_without_rdma_count_only_if_there_is_no_rdma_device(tmp_path: Path) -> None:
    """A management port on the root port of the GPU is not what a GPU's traffic takes."""
    port = MachineNic(PciAddress.parse("1b:00.1"), 0, interfaces=("eno1",))
    dgx = machines.get("dgx-h100")
    with_rdma = Host.from_root(trees.write(attrs.evolve(dgx, nics=(*dgx.nics, port)), tmp_path / "rdma"))
    assert nearest(with_rdma)[0] == "mlx5_0 PIX"
    alone = Host.from_root(trees.write(attrs.evolve(dgx, nics=(port,)), tmp_path / "alone"))
    assert nearest(alone)[0] == "eno1 NODE"


def test_adapters_are_found_by_their_class_and_by_the_links_of_their_names(tmp_path: Path) -> None:
    """Two ports of one function, a virtio child, a hidden name; a software device and one on USB are none."""
    ports = MachineNic(PciAddress.parse("18:00.0"), 0, ("mlx4_0",), ("ib1", "ib0"))
    virtio = MachineNic(PciAddress.parse("00:03.0"), 0, class_code=0xFF0000)
    hidden = MachineNic(PciAddress.parse("41:00.0"), 1)
    root = Path(trees.write(attrs.evolve(machines.get("dgx-h100"), nics=(ports, virtio, hidden)), tmp_path))
    child = root / "sys/devices/pci0000:00/0000:00:03.0/virtio2"
    usb = root / "sys/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0"
    net = root / "sys/class/net"
    for device, name in ((child, "eth0"), (usb, "usb0")):
        device.mkdir(parents=True)
        (net / name).mkdir()
        (net / name / "device").symlink_to(device)
    (net / "lo").mkdir()
    (net / "bonding_masters").write_text("bond0\n")  # a file among the links
    found = sysfs.load(f"{root}/").nics
    assert [(str(nic), str(nic.address), nic.rdma, nic.interfaces) for nic in found] == [
        ("eth0", "0000:00:03.0", (), ("eth0",)),
        ("mlx4_0", "0000:18:00.0", ("mlx4_0",), ("ib0", "ib1")),
        ("0000:41:00.0", "0000:41:00.0", (), ()),
    ]


def test_names_are_counted_as_people_count(tmp_path: Path) -> None:
    """mlx5_2 is before mlx5_10."""
    nic = MachineNic(PciAddress.parse("18:00.0"), 0, ("mlx5_10", "mlx5_2"))
    root = trees.write(attrs.evolve(machines.get("dgx-h100"), nics=(nic,)), tmp_path)
    assert sysfs.load(f"{root}/").nics[0].rdma == ("mlx5_2", "mlx5_10")


def test_a_name_made_of_a_hardware_address_is_not_gathered(tmp_path: Path) -> None:
    """The adapter is."""
    nic = MachineNic(PciAddress.parse("18:00.0"), 0, ("rocex506b4b0300c3a8f0",), ("enx506b4bc3a8f0", "eth0"))
    root = trees.write(attrs.evolve(machines.get("dgx-h100"), nics=(nic,)), tmp_path / "root")
    paths = write_archive(str(tmp_path / "m.tar.gz"), root)
    assert not [path for path in paths if "506b4b" in path]
    (found,) = Host.from_root(str(tmp_path / "m.tar.gz")).topology.nics
    assert (found.rdma, found.interfaces) == ((), ("eth0",))


def caches(topology: Topology) -> list[tuple[int, str, int | None, str]]:
    return [(c.level, c.type, c.size, str(c.cpus)) for c in topology.caches]


def test_caches_have_their_level_type_size_and_cpus(tmp_path: Path) -> None:
    """Those of a core, with its siblings, and the L3 of a package; an offline CPU shares none."""
    machine = attrs.evolve(machines.get("dgx-h100"), offline=CpuSet([1]))
    found = caches(sysfs.load(f"{trees.write(machine, tmp_path)}/"))
    assert found[:2] == [(1, "data", 49152, "0,112"), (1, "data", 49152, "2,114")]
    assert (1, "data", 49152, "113") in found
    assert (2, "unified", 2 << 20, "223") not in found
    assert found[-2:] == [(3, "unified", 105 << 20, "0,2-55,112-167"), (3, "unified", 105 << 20, "56-111,168-223")]
    assert len(found) == 3 * 112 + 2


def test_a_cache_of_unknown_size_is_there_all_the_same(tmp_path: Path) -> None:
    """Virtual machines may not show it."""
    root = trees.write(machines.get("vm-one-gpu"), tmp_path)
    assert caches(sysfs.load(f"{root}/")) == [(3, "unified", None, "0-25")]


def test_free_memory_is_that_of_each_node(tmp_path: Path) -> None:
    """In bytes; not of the other fields, and nothing in an archive."""
    root = Path(trees.write(machines.get("azure-ndv2"), tmp_path / "root"))
    (root / "sys/devices/system/node/node1/meminfo").write_text("Node 1 MemTotal: 9 kB\nNode 1 MemFree: 5 kB\n")
    assert sysfs.load(f"{root}/").free_memory == {0: 336 << 30, 1: 5 << 10}
    write_archive(str(tmp_path / "m.tar.gz"), str(root))
    assert Host.from_root(str(tmp_path / "m.tar.gz")).topology.free_memory == {}


def test_a_synthetic_machine_has_adapters() -> None:
    """Beside the GPUs of their node, in turn; and on a node without GPUs."""
    host = Host.synthetic("pack:2 core:4 gpu:2 nic:3")
    assert [str(nic.address) for nic in host.topology.nics[:3]] == ["0000:01:01.0", "0000:01:02.0", "0000:02:01.0"]
    assert nearest(host) == ["mlx5_0,mlx5_2 PIX", "mlx5_1 PIX", "mlx5_3,mlx5_5 PIX", "mlx5_4 PIX"]
    alone = Host.synthetic("pack:2 core:4 nic:40").topology
    assert [nic_node(nic, alone) for nic in alone.nics] == [0] * 40 + [1] * 40
    assert len({nic.address for nic in alone.nics}) == 80


def test_a_plan_reads_no_adapters_and_no_caches(tmp_path: Path) -> None:
    """They are read when they are asked for: a start pays for none of it."""
    host = Host.from_root(trees.write(machines.get("dgx-h100"), tmp_path))
    asked: list[str] = []

    class Recorded:
        def __getattr__(self, name: str) -> object:
            asked.append(name)
            return getattr(host.topology.source, name)

    plan(gpu="0", host=attrs.evolve(host, topology=attrs.evolve(host.topology, source=Recorded())))
    assert "pci_devices" in asked
    assert not {"nics", "caches", "pci_paths", "free_memory"} & set(asked)


@pytest.mark.parametrize("name", ["dgx-h100", "gb200"])
def test_the_json_of_show_has_adapters_caches_and_links(name: str, tmp_path: Path) -> None:
    """For programs: what the tree has, by name."""
    root = trees.write(machines.get(name), tmp_path)
    shown = schemas.load("show", CliRunner().invoke(group, ["show", "--root", root, "--json"]).stdout)
    machine = machines.get(name)
    assert [nic["name"] for nic in shown["nics"]] == [nic.rdma[0] for nic in sorted(machine.nics, key=lambda n: n.pci)]
    assert shown["nics"][0]["node"] == 0
    first = shown["gpus"][0]
    assert first["nearest_nics"][0] == "mlx5_0"
    assert first["links"]["mlx5_0"] == ("PIX" if name == "dgx-h100" else "NODE")
    assert len(first["links"]) == len(machine.gpus) - 1 + len(machine.nics)
    assert {(c["level"], c["type"]) for c in shown["caches"]} == {
        (1, "data"), (1, "instruction"), (2, "unified"), (3, "unified"),
    }  # fmt: skip
    assert shown["nodes"][0]["memory_free"] == machine.nodes[0].memory
