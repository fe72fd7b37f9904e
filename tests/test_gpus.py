"""Which GPU is it: references, the operator's override, what counts as a GPU, and every machine's table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import schemas
from affinity_plugins.devices.pci import Pci
from expected import NODES_OF
from hypothesis import given, settings
from hypothesis import strategies as st

from affinity import CpuSet, Host, Settings, SettingsError, UnknownGpuError
from affinity.devices import DeviceProvider, Gpu
from affinity.devices.inventory import Inventory, count_nvidia_devices
from affinity.devices.references import resolve
from affinity.errors import DeviceError
from affinity.host import NoKernel
from affinity.observe import _assigned_gpus, _multi_node_note
from affinity.plugins import Plugins
from affinity.registry import Registry
from affinity.strategies import Support
from affinity.testing import machines, trees
from affinity.topology import PciAddress, PciDevice
from affinity.topology.model import Origin, Topology
from affinity.topology.synthetic import StaticSource

INSTALLED = Plugins()


Tree = Callable[[str], str]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The root of a named machine's files, written once: they are thousands."""

    @cache
    def write(machine: str) -> str:
        return trees.write(machines.get(machine), tmp_path_factory.mktemp(machine))

    return write


def planned(root: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What `affinity plan --root … --json` prints."""
    from affinity.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["plan", "--root", root, "--json"])
    assert not ended.value.code
    plans: list[dict[str, Any]] = schemas.load("plan", capsys.readouterr().out)
    return plans


@pytest.mark.parametrize("machine", NODES_OF)
def test_every_machine_gives_its_table(machine: str, tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    """From its sysfs tree, through `affinity plan --root … --json`; management chips are not in it."""
    plans = planned(tree(machine), capsys)
    assert [plan["gpu"]["pci_bus_id"] for plan in plans] == [str(g.pci) for g in machines.get(machine).gpus]
    assert [plan["node"] for plan in plans] == NODES_OF[machine]
    assert all(plan["gpu"]["node_reason"] for plan in plans)


def test_dgx_h100_workers_get_the_cpus_of_their_node(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    """CPUs 0-55,112-167 and 56-111,168-223."""
    plans = planned(tree("dgx-h100"), capsys)
    assert [plan["cpus"] for plan in plans] == ["0-55,112-167"] * 4 + ["56-111,168-223"] * 4


def test_a_container_without_the_gpus_node_states_so(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    """The node is known, but nothing of it is allowed: no placement, and the reason with the numbers."""
    machine = machines.get("container-without-gpu-node")
    plans = planned(tree(machine.name), capsys)
    refused = [plan for plan in plans if plan["problem"]]
    assert {plan["node"] for plan in refused} == {0, 1} - {
        n.id for n in machine.nodes if not n.cpus.isdisjoint(machine.allowed_cpus or machine.online)
    }
    assert all("is allowed here" in plan["problem"] for plan in refused)


@pytest.mark.parametrize(
    "oddity",
    [
        {"nul": True},
        {"lists": False},
        {"nul": True, "lists": False},
    ],
)
@pytest.mark.parametrize("machine", ["azure-ndv4", "vm-known-bridge"])
def test_odd_trees_give_the_same_table(machine: str, oddity: dict[str, bool], tmp_path: Path) -> None:
    """Files that end in NUL, and kernels that write masks and no lists."""
    host = Host.from_root(trees.write(machines.get(machine), tmp_path, **oddity))
    assert [g.node for g in listed(host).machine] == NODES_OF[machine]


def test_sparse_nodes_and_wide_domains_give_the_same_table(tmp_path: Path) -> None:
    """Node numbers with gaps; PCI domains of 32 bits, in PCI order behind the narrow ones."""
    machine = trees.wide_domains(trees.sparse(machines.get("azure-ndv4"), 4))
    found = listed(Host.from_root(trees.write(machine, tmp_path)))
    assert [g.node for g in found.machine] == [4, 4, 0, 0, 12, 12, 8, 8]
    assert str(found.machine[0]) == "10001:00:00.0"
    assert resolve("00010001:00:00.0", found) == (found.machine[0],)


def test_offline_cpus_leave_the_node_as_it_is(tmp_path: Path) -> None:
    """A node of which half the CPUs are off is still the GPU's; one with none left gives the nearest."""
    machine = machines.get("azure-ndv4")
    gone = machine.nodes[0].cpus
    host = Host.from_root(trees.write(attrs.evolve(machine, offline=gone), tmp_path))
    found = [(g.node, g.node_reason) for g in listed(host).machine[2:4]]
    assert found == [(1, "nearest node with CPUs to memory node 0 (PCI numa_node)")] * 2


# ---------------------------------------------------------------- references


def listed(host: Host | str, environ: Mapping[str, str] | None = None, **flags: Any) -> Inventory:
    if isinstance(host, str):
        topology = machines.load(host)
        host = on(topology)
    return Inventory(host, Settings(**flags), environ or {}, INSTALLED.devices)


def on(topology: Topology) -> Host:
    return Host(topology, NoKernel(), topology.online, topology.memory_nodes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reference", "places"),
    [
        ("0", [3]),
        (0, [3]),
        ("1", [5]),
        (" 1 ", [5]),
        ("all", [3, 5]),
        ("phys:0", [0]),
        ("phys:7", [7]),
        ("0000:1B:00.0", [0]),
        ("1b:00.0", [0]),
        ("00000000:1b:00.0", [0]),
        ("1,phys:0,0000:1b:00.0", [5, 0]),
    ],
)
def test_a_reference_names_the_gpu_it_states(reference: str | int, places: list[int]) -> None:
    """CUDA shows the third and the fifth; addresses and physical ordinals see all."""
    found = listed("dgx-h100", {"CUDA_VISIBLE_DEVICES": "3,5"})
    assert str(found.machine[0]) == "0000:1b:00.0"
    assert [found.machine.index(g) for g in resolve(reference, found)] == places


@pytest.mark.parametrize(
    "reference",
    ["2", "-1", "phys:8", "phys:", "phys:x", "0000:ff:00.0", "GPU-8f2c", "MIG-1", "", "zero", "1,,0", "99999999"],
)
def test_a_reference_to_nothing_states_what_is_there(reference: str) -> None:
    """UnknownGpuError with the GPUs, and the forms there are."""
    found = listed("dgx-h100", {"CUDA_VISIBLE_DEVICES": "3,5"})
    with pytest.raises(UnknownGpuError, match=r"0000:1b:00\.0.*\(2 visible\).*phys:N"):
        resolve(reference, found)


def test_an_ambiguous_prefix_states_whom_it_names() -> None:
    """Two AMD GPUs whose unique ids begin alike."""
    found = listed(with_devices(amd(1, unique_id="8f2c000000000001"), amd(2, unique_id="8f2c000000000002")))
    assert resolve("gpu-8F2C000000000002", found) == (found.machine[1],)
    with pytest.raises(UnknownGpuError, match=r"ambiguous: it names 0000:01:00\.0, 0000:02:00\.0"):
        resolve("GPU-8f2c", found)


@given(st.permutations(range(8)).flatmap(lambda order: st.integers(1, 8).map(lambda n: order[:n])))
@settings(max_examples=30, deadline=None)
def test_the_node_of_visible_ordinal_i_is_that_of_the_gpu_cuda_calls_i(chosen: list[int]) -> None:
    """Any subset in any order, and physical ordinals stay what they are."""
    found = listed("dgx-a100", {"CUDA_VISIBLE_DEVICES": ",".join(map(str, chosen))})
    for position, physical in enumerate(chosen):
        (gpu,) = resolve(position, found)
        assert gpu.node == NODES_OF["dgx-a100"][physical]
        assert resolve(f"phys:{physical}", found) == (gpu,)


def test_a_driver_reference_is_an_entry_and_no_visible_ordinal() -> None:
    """Ray gives id 5 to a worker whose CUDA_VISIBLE_DEVICES it has set to 5: its cuda:0 is GPU 5."""
    found = listed("dgx-h100", {"CUDA_VISIBLE_DEVICES": "5"})
    assert resolve("driver:5", found) == (found.machine[5],)
    assert resolve("driver:0,driver:7", found) == (found.machine[0], found.machine[7])
    for absent in ("driver:8", "driver:", "driver:-1"):
        with pytest.raises(UnknownGpuError, match=f"'{absent}' is not here"):
            resolve(absent, found)


def test_several_nodes_are_reported_and_an_unknown_one_by_name() -> None:
    """A worker of two GPUs, of which one could be anywhere, is placed by the other: it must state so."""
    near, far, lost = (Gpu(PciAddress(0, bus, 0, 0), "nvidia", node=node) for bus, node in enumerate((0, 1, None)))
    assert _multi_node_note((near, near), "its GPUs are") == ""
    assert (
        _multi_node_note((near, far), "its GPUs are") == "its GPUs are on several nodes: it is placed on all of these"
    )
    assert "; the node of 0000:02:00.0 is not known and has no part in it" in _multi_node_note(
        (near, lost), "its GPUs are"
    )


def test_a_launchers_gpus_on_several_nodes_are_reported() -> None:
    """Ray gives an actor GPUs 0 and 7 of a DGX: one on each socket."""
    found = listed("dgx-h100")
    assert _assigned_gpus("ray", ["driver:0", "driver:1"], found, required=True)[1] == ""
    mine, reported = _assigned_gpus("ray", ["driver:0", "driver:7"], found, required=True)
    assert mine == (found.machine[0], found.machine[7])
    assert reported == "its GPUs are on several nodes: it is placed on all of these"


def test_an_assigned_gpu_that_is_not_here_is_a_note_and_an_error_where_binding_is_required() -> None:
    """Of every launcher alike."""
    found = listed("gh200")
    words = "launcher acme assigned GPU driver:7, which is not here"
    gpus, reported = _assigned_gpus("acme", ["driver:7"], found, required=False)
    assert gpus == ()
    assert words in reported
    with pytest.raises(UnknownGpuError, match=words):
        _assigned_gpus("acme", ["driver:7"], found, required=True)


def test_an_amd_launchers_ids_count_what_rocr_leaves() -> None:
    """Ray's ids of AMD GPUs are entries of HIP_VISIBLE_DEVICES, which counts behind ROCR_VISIBLE_DEVICES."""
    found = listed("mi250x", {"ROCR_VISIBLE_DEVICES": "4,5,6,7", "HIP_VISIBLE_DEVICES": "0"})
    assert resolve("driver:0", found) == resolve(0, found) == (found.machine[4],)
    assert resolve("driver:3", found) == (found.machine[7],)


def test_different_models_are_reported_as_a_warning_with_the_remedy() -> None:
    """And neither an ordinal nor a launcher's id is taken for a GPU on another node."""
    host = with_devices(nvidia(1, device=0x2330), nvidia(2, device=0x1EB8, node=1))
    for refer in (lambda f: resolve(0, f), lambda f: resolve("driver:0", f)):
        found = listed(host)
        (gpu,) = refer(found)
        assert (gpu.pci, gpu.node) == (None, None)
        assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in "".join(found.notes)
    found = listed(host, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert resolve(1, found)[0].node == 1
    assert found.notes == ()


def test_ordinals_count_one_vendors_gpus() -> None:
    """On a machine with NVIDIA and AMD, `0` is CUDA's; an address names either, and `all` is both."""
    found = listed(with_devices(amd(1), nvidia(2), amd(3)))
    assert str(resolve(0, found)[0]) == "0000:02:00.0"
    with pytest.raises(UnknownGpuError):
        resolve(1, found)
    assert [str(g) for g in resolve("all", found)] == ["0000:02:00.0", "0000:01:00.0", "0000:03:00.0"]
    assert "nvidia" in "".join(found.notes)


# ---------------------------------------------------------------- the operator's override


def test_the_operators_nodes_are_over_all_detection() -> None:
    """One a GPU in PCI order; the disagreement is reported."""
    found = listed("dgx-h100", nodes=(1, 1, 1, 1, 0, 0, 0, 0))
    assert [g.node for g in found.machine] == [1, 1, 1, 1, 0, 0, 0, 0]
    assert found.machine[0].node_reason == "from AFFINITY_NODES; but PCI numa_node has node 0"


def test_the_operators_nodes_stand_in_for_gpus_where_there_are_none() -> None:
    """Ordinals work as CUDA's would."""
    found = listed("pack:2 core:4", {"CUDA_VISIBLE_DEVICES": "2,0"}, nodes=(0, 0, 1))
    assert [str(g) for g in found.machine] == ["placeholder 0", "placeholder 1", "placeholder 2"]
    assert [g.node for g in resolve("all", found)] == [1, 0]
    assert resolve("0", found) == resolve("phys:2", found)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [((0, 1), "names 2 nodes, 8 GPUs are here"), ((0,) * 7 + (9,), "node 9, which is not here: online nodes are 0-1")],
)
def test_nodes_that_do_not_fit_are_an_error(nodes: tuple[int, ...], message: str) -> None:
    """A count that is wrong, and a node that is not there."""
    with pytest.raises(SettingsError, match=message):
        _ = listed("dgx-h100", nodes=nodes).machine


# ---------------------------------------------------------------- providers


class Driver(DeviceProvider):
    """A driver that shows some of the machine's GPUs."""

    driver_vendors: ClassVar[frozenset[str]] = frozenset({"nvidia"})
    shows: ClassVar[tuple[Gpu, ...]] = ()
    asked: ClassVar[int] = 0

    def supports(self, host: Host) -> Support:
        return Support.yes()

    def devices(self, host: Host, settings: Settings) -> tuple[Gpu, ...]:
        type(self).asked += 1
        return self.shows


class Broken(Driver):
    """A driver that fails."""

    def devices(self, host: Host, settings: Settings) -> tuple[Gpu, ...]:
        raise DeviceError("broken: no driver; load it")


class Providers(Registry[DeviceProvider]):
    """These, instead of those that are installed."""

    def __init__(self, **providers: DeviceProvider) -> None:
        super().__init__("affinity.devices", DeviceProvider, ())  # type: ignore[type-abstract]
        self._mine = providers

    def names(self) -> tuple[str, ...]:
        return tuple(self._mine)

    def get(self, name: str) -> DeviceProvider:
        return self._mine[name]


def test_the_operators_nodes_may_count_the_gpus_a_container_shows() -> None:
    """sysfs lists eight, the driver two: both counts are understood, and others are reported with both."""

    class Two(Driver):
        shows = tuple(Gpu(g.pci, "nvidia") for g in machines.get("dgx-h100").gpus[4:6])

    def found(*nodes: int) -> Inventory:
        return Inventory(on(machines.load("dgx-h100")), Settings(nodes=nodes), {}, Providers(nvml=Two(), pci=Pci()))

    assert [g.node for g in found(0, 1).devices] == [0, 1]
    assert [g.node for g in found(0, 0, 0, 0, 0, 0, 0, 0).machine] == [0] * 8
    with pytest.raises(SettingsError, match=r"3 nodes, 8 GPUs are here \(2 of them for this process\)"):
        _ = found(0, 1, 1).devices


def test_a_driver_that_fails_is_reported_and_files_answer() -> None:
    """Once, however often it is looked at."""
    found = Inventory(on(machines.load("dgx-h100")), Settings(), {}, Providers(nvml=Broken(), pci=Pci()))
    assert [g.node for g in found.devices] == [g.node for g in found.machine] == NODES_OF["dgx-h100"]
    assert found.notes == ("broken: no driver; load it",)


def test_a_third_partys_driver_is_asked_too_and_speaks_for_its_vendor_only() -> None:
    """NVIDIA's GPUs stay although it does not list them."""

    class Rocm(Driver):
        driver_vendors = frozenset({"amd"})
        shows = (Gpu(PciAddress(0, 3, 0, 0), "amd", uuid="GPU-1"),)

    host = with_devices(amd(1), nvidia(2), amd(3))
    found = Inventory(host, Settings(), {}, Providers(pci=Pci(), rocm=Rocm(), nvml=Broken()))
    assert [str(g) for g in found.devices] == ["0000:02:00.0", "0000:03:00.0"]
    assert resolve("GPU-1", found)[0].node == 0  # what sysfs finds of it is merged in


def test_the_override_asks_the_driver_where_gpus_may_be_hidden() -> None:
    """This machine's /dev has no node for the 16 GPUs that its sysfs would show: ordinal 0 is the driver's to show."""

    class One(Driver):
        shows = (Gpu(machines.get("dgx-2").gpus[9].pci, "nvidia"),)

    for origin, place in ((Origin.LIVE, 9), (Origin.SYNTHETIC, 0)):
        topology = attrs.evolve(machines.load("dgx-2"), origin=origin)
        flags = Settings(nodes=(0,) * 8 + (1,) * 8)
        found = Inventory(on(topology), flags, {}, Providers(nvml=One(), pci=Pci()))
        assert found.machine.index(resolve(0, found)[0]) == place


def test_device_nodes_are_counted_and_their_siblings_are_not(tmp_path: Path) -> None:
    """/dev/nvidia0 is a GPU; nvidiactl, nvidia-uvm and nvidia-caps are not."""
    for name in ("nvidia0", "nvidia12", "nvidiactl", "nvidia-uvm", "nvidia-caps", "null"):
        (tmp_path / name).touch()
    assert count_nvidia_devices(str(tmp_path)) == 2


# ---------------------------------------------------------------- what counts as a GPU


def with_devices(*devices: PciDevice) -> Host:
    """A machine of two nodes with these."""
    topology = machines.load("pack:2 core:4")
    return on(attrs.evolve(topology, source=StaticSource(pci_devices=devices)))


def nvidia(bus: int, device: int = 0x2330, node: int = 0, **more: Any) -> PciDevice:
    return PciDevice(PciAddress(0, bus, 0, 0), 0x10DE, device, 0x030200, numa_node=node, **more)


def amd(bus: int, device: int = 0x7408, node: int = 0, **more: Any) -> PciDevice:
    return PciDevice(PciAddress(0, bus, 0, 0), 0x1002, device, 0x038000, numa_node=node, **more)


@pytest.mark.parametrize(
    ("what", "address", "ids", "is_gpu"),
    [
        ("H100", "1b:00.0", (0x10DE, 0x2330, 0x030200), True),
        ("GeForce that drives the console", "01:00.0", (0x10DE, 0x2684, 0x030000), True),
        ("MI300X", "05:00.0", (0x1002, 0x74A1, 0x120000), True),
        ("MI300A", "01:00.0", (0x1002, 0x74A0, 0x120000), True),
        ("MI250X", "c1:00.0", (0x1002, 0x7408, 0x038000), True),
        ("emulated ati-vga, Rage 128", "01:00.0", (0x1002, 0x5046, 0x030000), True),
        ("emulated ati-vga, RV100", "00:05.0", (0x1002, 0x5159, 0x030000), True),
        ("Raphael's graphics", "0e:00.0", (0x1002, 0x164E, 0x030000), False),
        ("Strix Halo's graphics", "c5:00.0", (0x1002, 0x1586, 0x038000), False),
        ("Kaveri's graphics", "00:01.0", (0x1002, 0x1313, 0x030000), False),
        ("Trinity's graphics", "00:01.0", (0x1002, 0x9900, 0x030000), False),
        ("Max 1550", "29:00.0", (0x8086, 0x0BD5, 0x038000), True),
        ("Arc that drives the console", "03:00.0", (0x8086, 0x56A0, 0x030000), True),
        ("Flex given to a virtual machine", "00:05.0", (0x8086, 0x56C0, 0x038000), True),
        ("UHD graphics", "00:02.0", (0x8086, 0x3E98, 0x030000), False),
        ("Meteor Lake's NPU", "00:0b.0", (0x8086, 0x7D1D, 0x120000), False),
        ("ASPEED", "03:00.0", (0x1A03, 0x2000, 0x030000), False),
        ("Matrox", "03:00.0", (0x102B, 0x0536, 0x030000), False),
        ("virtio", "00:01.0", (0x1AF4, 0x1050, 0x038000), False),
    ],
)
def test_what_is_a_gpu(what: str, address: str, ids: tuple[int, int, int], is_gpu: bool) -> None:
    """Management chips, emulated consoles and graphics inside the processor are not."""
    host = with_devices(PciDevice(PciAddress.parse(address), *ids))
    assert bool(Pci().devices(host, Settings())) is is_gpu, what


@pytest.mark.parametrize(("local", "node"), [("4-7", 1), ("0-7", None), ("", None)])
def test_local_cpus_show_the_node_where_numa_node_does_not(local: str, node: int | None) -> None:
    """A list of all CPUs is how the kernel states that it does not find."""
    device = PciDevice(PciAddress(0, 1, 0, 0), 0x10DE, 0x2330, 0x030200, local_cpus=CpuSet.parse(local))
    assert listed(with_devices(device)).machine[0].node == node


def test_amds_unique_id_is_its_uuid(tmp_path: Path) -> None:
    """amdgpu writes it to sysfs; ROCR_VISIBLE_DEVICES takes it after GPU-."""
    root = trees.write(machines.get("mi250x"), tmp_path)
    for device in (tmp_path / "sys/bus/pci/devices").iterdir():
        (device / "unique_id").write_text(f"{0x8F00 + int(device.name[5:7], 16):016x}\n", encoding="ascii")
    found = listed(Host.from_root(root), {"ROCR_VISIBLE_DEVICES": "GPU-0000000000008fd1,0"})
    assert [str(g) for g in found.visible] == ["0000:d1:00.0", "0000:c1:00.0"]


def test_two_values_of_one_device_are_equal_whatever_is_known_of_them() -> None:
    """Identity is the PCI address."""
    address = PciAddress(0, 1, 0, 0)
    assert Gpu(address, "nvidia", uuid="GPU-1", node=1) == Gpu(address, "nvidia")
    assert Gpu(address, "nvidia") != Gpu(attrs.evolve(address, bus=2), "nvidia")
    assert len({Gpu(None, "none", label="placeholder 0"), Gpu(None, "none", label="placeholder 1")}) == 2
