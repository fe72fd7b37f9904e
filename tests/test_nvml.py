"""The `nvml` provider: the real pynvml on a driver library of our own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import driver
import pytest
import schemas
from commands import affinity
from driver import DRIVER_NOT_LOADED, GPU_IS_LOST, NO_PERMISSION, NOT_SUPPORTED, UNKNOWN
from expected import NODES_OF
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affinity import Host, Settings
from affinity.devices.inventory import Inventory
from affinity.plugins import Plugins
from affinity.testing import machines, trees

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is optional")

#: Those with an NVIDIA driver that shows the node.
MACHINES = sorted(set(NODES_OF) - {"mi250x", "vm-known-bridge"})

H100 = "dgx-h100"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver.build(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def child(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[driver.Child]:
    with driver.Child(library, tmp_path_factory.mktemp("child")) as process:
        yield process


def reported(machine: str, *extra: str, affinity: bool = True) -> str:
    return driver.describe(machines.get(machine), *extra, affinity=affinity)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_machine_gives_its_table_through_nvml_alone(child: driver.Child, machine: str) -> None:
    """No PCI fact is used: memory affinity, restricted to nodes with CPUs, shows the node."""
    found = child.ask(machine, reported(machine))["devices"]
    assert [g["node"] for g in found] == NODES_OF[machine]
    expected = machines.get(machine)
    assert [g["name"] for g in found] == [str(g.pci) for g in expected.gpus]
    assert [g["uuid"] for g in found] == [g.uuid for g in expected.gpus]
    assert {g["device_id"] for g in found} == {g.device for g in expected.gpus}


@pytest.mark.parametrize("machine", MACHINES)
def test_cpu_affinity_shows_the_node_where_memory_affinity_is_refused(child: driver.Child, machine: str) -> None:
    """As on a driver that supports no memory affinity on this GPU."""
    refused = f"error nvmlDeviceGetMemoryAffinity -1 {NOT_SUPPORTED}"
    found = child.ask(machine, reported(machine, refused))["devices"]
    assert [g["node"] for g in found] == NODES_OF[machine]


def test_a_driver_older_than_scopes_still_shows_its_cpus(library: Path, tmp_path: Path) -> None:
    """Functions that the library lacks leave their source silent; the plain CPU affinity answers."""
    old = driver.build(tmp_path / "old", old=True)
    with driver.Child(old, tmp_path / "child") as process:
        found = process.ask(H100, reported(H100))["devices"]
    assert [g["node"] for g in found] == NODES_OF[H100]
    assert found[0]["node_reason"].startswith("from NVML CPU affinity")


def test_socket_scope_answers_where_node_scope_does_not(child: driver.Child) -> None:
    """And only there: a socket may have several nodes."""
    gpu = reported(H100, affinity=False).splitlines()[0]
    found = child.ask(H100, f"{gpu}\nsocket 0 56-111\n")["devices"]
    assert (found[0]["node"], found[0]["node_reason"]) == (1, "from NVML CPU affinity (socket) (CPUs 56-111)")


def test_the_gpus_own_memory_node_is_never_its_cpu_node(child: driver.Child) -> None:
    """nvmlDeviceGetNumaNodeId names the node of the GPU's memory: the nearest node with CPUs is the answer."""
    gpus = reported("gb200", affinity=False).splitlines()
    found = child.ask("gb200", "\n".join([*gpus[:3], "node 0 2", "node 1 0", "node 2 18", ""]))["devices"]
    assert (found[0]["node"], found[0]["node_reason"]) == (0, "nearest node with CPUs to GPU memory node 2")
    assert found[1]["node"] is None
    assert (found[2]["node"], found[2]["node_reason"]) == (1, "nearest node with CPUs to GPU memory node 18")


def test_memory_affinity_that_names_gpu_memory_keeps_the_nodes_with_cpus(child: driver.Child) -> None:
    """GB200 states 0,2-9: only node 0 has CPUs."""
    found = child.ask("gb200", reported("gb200"))["devices"]
    assert [(g["node"], g["node_reason"]) for g in found] == [(n, "from NVML memory affinity") for n in (0, 0, 1, 1)]


def test_arrays_hold_the_highest_id_and_not_the_count(child: driver.Child) -> None:
    """POWER9 has six nodes with CPUs or memory, the highest is 255; CPUs of DGX-2 and H100 end far above 64."""
    gpus = reported("power9-ac922", affinity=False)
    found = child.ask("power9-ac922", gpus + "memory 0 8,250-255\n")["devices"]
    assert (found[0]["node"], found[0]["node_reason"]) == (8, "from NVML memory affinity")
    gpu = reported(H100, affinity=False).splitlines()[0]
    found = child.ask(H100, f"{gpu}\ncpu 0 168-223\n")["devices"]
    assert (found[0]["node"], found[0]["node_reason"]) == (1, "from NVML CPU affinity (CPUs 168-223)")


# ---------------------------------------------------------------- MIG


def test_mig_devices_are_found_below_their_gpu(child: driver.Child) -> None:
    """By UUID and by an unambiguous prefix of it; the reference gives the whole GPU."""
    mig = ("mig 5 MIG-aaaa1111-0000-0000-0000-000000000001", "mig 5 MIG-aaaa2222-0000-0000-0000-000000000002")
    found = child.ask(H100, reported(H100, *mig), "MIG-aaaa2222", "MIG-aaaa", "MIG-bbbb")
    assert found["devices"][5]["mig_uuids"] == [line.split()[2] for line in mig]
    assert found["references"][0][0]["name"] == found["devices"][5]["name"]
    assert found["references"][1][0]["name"] == found["devices"][5]["name"]  # two parts, one GPU
    assert found["references"][2]["error"] == "UnknownGpuError"


def test_mig_ids_in_cuda_visible_devices_are_their_gpus(child: driver.Child) -> None:
    """The new form, and the one of drivers before R470 with the GPU's UUID in it."""
    machine = machines.get(H100)
    legacy = f"MIG-{machine.gpus[6].uuid}/1/0"
    variable = {"CUDA_VISIBLE_DEVICES": f"MIG-aaaa1111,{legacy},{machine.gpus[2].uuid[:12]}"}
    found = child.ask(H100, reported(H100, "mig 5 MIG-aaaa1111-0000"), "0", "1", "2", legacy, environ=variable)
    names = [asked[0]["name"] for asked in found["references"]]
    assert names == [str(machine.gpus[i].pci) for i in (5, 6, 2, 6)]


def test_two_mig_devices_of_one_gpu_are_no_duplicate(child: driver.Child) -> None:
    """CUDA finds them apart."""
    lines = reported(H100, "mig 5 MIG-aaaa1111-0000", "mig 5 MIG-aaaa2222-0000")
    found = child.ask(H100, lines, "0", "1", "2", environ={"CUDA_VISIBLE_DEVICES": "MIG-aaaa1111,MIG-aaaa2222"})
    assert [a[0]["node"] if isinstance(a, list) else a["error"] for a in found["references"]] == [
        1,
        1,
        "UnknownGpuError",
    ]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("function", "code", "remedy"),
    [
        ("nvmlInitWithFlags", DRIVER_NOT_LOADED, "load the kernel module"),
        ("nvmlInitWithFlags", NO_PERMISSION, "/dev/nvidiactl"),
        ("nvmlInitWithFlags", 18, "reboot"),
        ("nvmlInitWithFlags", UNKNOWN, "nvidia-smi shows more"),
        ("nvmlDeviceGetCount_v2", UNKNOWN, "nvidia-smi shows more"),
    ],
)
def test_a_driver_that_cannot_be_used_leaves_sysfs_to_answer(
    child: driver.Child, function: str, code: int, remedy: str
) -> None:
    """The note carries the driver's word and a remedy; the GPUs are those of sysfs."""
    found = child.ask(H100, reported(H100, f"error {function} -1 {code}"), providers=["nvml", "pci"])
    assert [g["node"] for g in found["devices"]] == NODES_OF[H100]
    assert [g["uuid"] for g in found["devices"]] == [None] * 8
    (note,) = found["notes"]
    assert note.startswith("nvml: ")
    assert remedy in note


def test_a_missing_library_is_reported_with_its_remedy(tmp_path: Path) -> None:
    """On this machine there is no libnvidia-ml.so.1 unless one is put on the path."""
    with driver.Child(tmp_path, tmp_path / "child") as process:
        found = process.ask(H100, "", providers=["nvml", "pci"])
    if "libnvidia-ml" not in "".join(found["notes"]):  # a machine with a real driver
        pytest.skip("a real NVIDIA library is installed here")
    assert "install the driver" in found["notes"][0]
    assert [g["node"] for g in found["devices"]] == NODES_OF[H100]


def test_init_and_shutdown_are_balanced_whatever_fails_between(child: driver.Child) -> None:
    """One of each, also where the count fails; a failed init needs no shutdown."""
    for refused, balance in (
        ((), (1, 1)),
        ((f"error nvmlDeviceGetCount_v2 -1 {UNKNOWN}",), (1, 1)),
        ((f"error nvmlShutdown -1 {UNKNOWN}",), (1, 1)),
        ((f"error nvmlInitWithFlags -1 {DRIVER_NOT_LOADED}",), (1, 0)),
    ):
        before = driver.calls(child.directory)
        child.ask(H100, reported(H100, *refused), "0", "all", "phys:3", providers=["nvml", "pci"])
        new = driver.calls(child.directory)[len(before) :]
        assert (new.count("nvmlInitWithFlags"), new.count("nvmlShutdown")) == balance


PER_GPU = (
    "nvmlDeviceGetMemoryAffinity",
    "nvmlDeviceGetCpuAffinityWithinScope",
    "nvmlDeviceGetNumaNodeId",
    "nvmlDeviceGetName",
    "nvmlDeviceGetMigMode",
)


@pytest.mark.parametrize("function", PER_GPU)
@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, UNKNOWN])
def test_one_function_that_fails_on_one_gpu_costs_only_what_it_shows(
    child: driver.Child, function: str, code: int
) -> None:
    """The other sources answer for that GPU, and nothing changes for the seven others."""
    found = child.ask(H100, reported(H100, f"error {function} 3 {code}"))["devices"]
    assert [g["node"] for g in found] == NODES_OF[H100]
    assert not any(g["error"] for g in found)


def test_a_gpu_no_source_shows_is_unknown_and_states_why(child: driver.Child) -> None:
    """Never node 0; each source's own words."""
    refused = [f"error {function} 3 {NO_PERMISSION}" for function in (*PER_GPU, "nvmlDeviceGetCpuAffinity")]
    found = child.ask(H100, reported(H100, *refused))["devices"]
    assert found[3]["node"] is None
    assert "NVML memory affinity: " in found[3]["node_reason"]
    assert "AFFINITY_NODES" in found[3]["node_reason"]


@pytest.mark.parametrize("code", [GPU_IS_LOST, UNKNOWN])
@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetPciInfo_v3"])
def test_one_gpu_of_eight_that_cannot_be_reached_is_found_in_sysfs(
    child: driver.Child, function: str, code: int
) -> None:
    """NVML cannot even show its address: it is the one that sysfs shows and NVML does not."""
    machine = machines.get(H100)
    found = child.ask(H100, reported(H100, f"error {function} 6 {code}"), providers=["nvml", "pci"])
    assert [g["name"] for g in found["devices"]] == [str(g.pci) for g in machine.gpus]
    assert [g["node"] for g in found["devices"]] == NODES_OF[H100]
    assert [bool(g["error"]) for g in found["devices"]] == [False] * 6 + [True, False]
    assert any(str(machine.gpus[6].pci) in note for note in found["notes"])


def test_an_ordinal_behind_a_lost_gpu_is_sure_only_where_both_counts_agree(child: driver.Child) -> None:
    """CUDA may or may not count a lost GPU: behind GPU 3, ordinal 3 is on node 0 or on node 1."""
    lost = reported(H100, f"error nvmlDeviceGetHandleByIndex_v2 3 {GPU_IS_LOST}")
    found = child.ask(H100, lost, *"0123456", providers=["nvml", "pci"])
    nodes = [asked[0]["node"] for asked in found["references"]]
    assert nodes == [0, 0, 0, None, 1, 1, 1]
    assert "cannot reach" in found["references"][3][0]["node_reason"]


def test_a_lost_gpu_none_can_place_makes_every_later_ordinal_doubtful(child: driver.Child) -> None:
    """In a container that hides GPUs, which of the hidden ones it is cannot be reported; nothing is guessed."""
    lines = reported(H100).splitlines()
    six = "\n".join(lines[:2] + lines[6:12]) + f"\nerror nvmlDeviceGetHandleByIndex_v2 0 {GPU_IS_LOST}\n"
    found = child.ask(H100, six, "0", "GPU-", providers=["nvml", "pci"])
    assert found["devices"][0]["name"] == "GPU 0 of NVML"
    assert found["devices"][0]["node"] is None
    assert found["references"][0][0]["node"] is None


def test_a_gpu_lost_between_two_questions_keeps_its_address_and_shows_its_fault(child: driver.Child) -> None:
    """Its PCI facts still place it."""
    lost = reported(H100, f"error nvmlDeviceGetMemoryAffinity 2 {GPU_IS_LOST}")
    found = child.ask(H100, lost, providers=["nvml", "pci"])["devices"]
    assert found[2]["node"] == 0
    assert "lost" in found[2]["error"]


def test_a_gpu_the_process_may_not_open_is_not_there_for_it(child: driver.Child) -> None:
    """NVML counts it and refuses the handle: a control group keeps it from this process, so CUDA counts without it."""
    machine = machines.get(H100)
    kept = reported(H100, f"error nvmlDeviceGetHandleByIndex_v2 0 {NO_PERMISSION}")
    found = child.ask(H100, kept, "0", providers=["nvml", "pci"])
    assert len(found["devices"]) == 7
    assert found["references"][0][0]["name"] == str(machine.gpus[1].pci)
    assert len(found["machine"]) == 8


# ---------------------------------------------------------------- merging


def test_a_container_that_hides_gpus_from_nvml_hides_them_here(child: driver.Child) -> None:
    """sysfs still lists eight; ordinals count the two that NVML shows. The machine still has eight."""
    machine = machines.get(H100)
    gpus = reported(H100, affinity=False).splitlines()
    found = child.ask(H100, "\n".join([gpus[5], gpus[6], ""]), "0", "1", "2", "phys:2", providers=["nvml", "pci"])
    assert [g["name"] for g in found["devices"]] == [str(machine.gpus[i].pci) for i in (5, 6)]
    assert [len(a) if isinstance(a, list) else a["error"] for a in found["references"]] == [1, 1, "UnknownGpuError", 1]
    assert found["references"][0][0]["name"] == str(machine.gpus[5].pci)
    assert found["references"][3][0]["name"] == str(machine.gpus[2].pci)
    assert [g["name"] for g in found["machine"]] == [str(g.pci) for g in machine.gpus]


def test_a_container_with_no_gpu_at_all_shows_none(child: driver.Child) -> None:
    """NVML works and lists nothing."""
    assert child.ask(H100, "", providers=["nvml", "pci"])["devices"] == []


def test_a_gpu_that_only_nvml_sees_is_still_a_gpu(child: driver.Child) -> None:
    """As under WSL, where sysfs has no PCI function of it."""
    extra = "gpu 00000000:F1:00.0 GPU-ffffffff-0000 0x2330 An eGPU\nmemory 8 1\n"
    found = child.ask(H100, reported(H100) + extra, "GPU-ffffffff", providers=["nvml", "pci"])
    assert (found["references"][0][0]["name"], found["references"][0][0]["node"]) == ("0000:f1:00.0", 1)


def test_pci_wins_over_nvml_and_the_disagreement_is_reported(child: driver.Child) -> None:
    """The stronger source decides; the weaker one is in the reason."""
    lines = reported(H100).replace("memory 0 0", "memory 0 1")
    found = child.ask(H100, lines, providers=["nvml", "pci"])["devices"]
    assert (found[0]["node"], found[0]["node_reason"]) == (
        0,
        "from PCI numa_node; but NVML memory affinity has node 1",
    )
    assert found[1]["node_reason"] == "from PCI numa_node"


def test_nvml_shows_the_node_where_pci_states_minus_one(child: driver.Child) -> None:
    """A virtual machine with NVML's affinity passed through."""
    gpus = reported("vm-two-nodes", affinity=False)
    found = child.ask("vm-two-nodes", gpus + "memory 0 1\nmemory 1 0-1\n", providers=["nvml", "pci"])["devices"]
    assert found[0]["node"] == 1
    assert found[1]["node"] is None
    assert "NVML memory affinity names nodes 0-1, which decides nothing" in found[1]["node_reason"]


@given(st.permutations(range(8)).flatmap(lambda order: st.integers(1, 8).map(lambda n: order[:n])), st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_visible_ordinal_i_has_the_node_of_the_gpu_cuda_calls_i(
    child: driver.Child, chosen: list[int], by_uuid: bool
) -> None:
    """Any subset in any order, as ordinals or as UUIDs, with NVML and sysfs merged."""
    machine = machines.get("dgx-a100")
    entries = [machine.gpus[i].uuid if by_uuid else str(i) for i in chosen]
    found = child.ask(
        "dgx-a100",
        reported("dgx-a100"),
        *map(str, range(len(chosen))),
        providers=["nvml", "pci"],
        environ={"CUDA_VISIBLE_DEVICES": ",".join(entries)},
        only_references=True,
    )
    assert [gpu["name"] for (gpu,) in found["references"]] == [str(machine.gpus[i].pci) for i in chosen]
    assert [gpu["node"] for (gpu,) in found["references"]] == [NODES_OF["dgx-a100"][i] for i in chosen]


# ---------------------------------------------------------------- when it is asked


@pytest.mark.parametrize(
    ("more", "references", "asked"),
    [
        ({}, ("0000:1b:00.0",), 0),
        ({}, ("phys:3",), 0),
        ({}, ("0",), 1),
        ({}, ("0", "1", "all", "GPU-"), 1),
        ({"nodes": [1, 1, 1, 1, 0, 0, 0, 0]}, ("0", "all", "phys:2"), 0),
        ({"nodes": [1, 1, 1, 1, 0, 0, 0, 0], "environ": {"CUDA_VISIBLE_DEVICES": "3,1"}}, ("0", "1"), 0),
        ({"nodes": [1, 1, 1, 1, 0, 0, 0, 0], "environ": {"CUDA_VISIBLE_DEVICES": "GPU-"}}, ("0",), 1),
    ],
)
def test_the_driver_is_asked_at_most_once_and_not_where_files_answer(
    child: driver.Child, more: dict[str, object], references: tuple[str, ...], asked: int
) -> None:
    """The operator's override and a PCI address need no driver; an ordinal and a UUID do."""
    machine = machines.get(H100)
    references = tuple(str(machine.gpus[0].pci) if r.startswith("0000:") else r for r in references)
    before = driver.calls(child.directory)
    child.ask(H100, reported(H100), *references, providers=["nvml", "pci"], only_references=True, **more)
    assert driver.calls(child.directory)[len(before) :].count("nvmlInitWithFlags") == asked


def test_a_pci_address_whose_node_sysfs_does_not_show_asks_the_driver(child: driver.Child) -> None:
    """A virtual machine that states -1."""
    machine = machines.get("vm-two-nodes")
    lines = reported("vm-two-nodes", affinity=False) + "memory 0 1\n"
    found = child.ask("vm-two-nodes", lines, str(machine.gpus[0].pci), providers=["nvml", "pci"])
    assert found["references"][0][0]["node"] == 1


def test_automatic_mode_never_imports_pynvml_for_another_machine(tmp_path: Path, python) -> None:
    """Nor on a machine without an NVIDIA driver: `supports` answers from files."""
    program = (
        "import sys, affinity\n"
        "affinity.plan(gpu='all', host=affinity.Host.synthetic('pack:2 core:2 gpu:2'))\n"
        "assert 'pynvml' not in sys.modules\n"
    )
    python(program)


def test_supports_states_no_for_a_machine_that_is_not_this_one() -> None:
    """And names the way round it."""
    host = Host.synthetic("pack:2 core:2 gpu:2")
    answer = Plugins().devices.get("nvml").supports(host)
    assert not answer
    assert "AFFINITY_DEVICES=nvml" in answer.reason


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize("machine", ["dgx-a100", "container-without-gpu-node", "vm-two-nodes"])
def test_affinity_plan_gives_the_table_through_nvml(library: Path, tmp_path: Path, machine: str) -> None:
    """`affinity plan --root … --json` with AFFINITY_DEVICES=nvml: one initialisation for all GPUs."""
    root = trees.write(machines.get(machine), tmp_path / "root")
    env = driver.environment(library, reported(machine), tmp_path / "driver") | {"AFFINITY_DEVICES": "nvml"}
    command = [os.path.join(os.path.dirname(sys.executable), "affinity"), "plan", "--root", root, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=env)
    plans = schemas.load("plan", done.stdout)
    plans = plans["plans"] if isinstance(plans, dict) else plans
    assert [gpu["node"] for plan in plans for gpu in plan["gpus"]] == NODES_OF[machine]
    assert driver.calls(tmp_path / "driver").count("nvmlInitWithFlags") == 1


def test_affinity_show_has_model_and_uuid_where_files_have_every_node(library: Path, tmp_path: Path) -> None:
    """A GPU that the driver hides from this process has neither."""
    machine = machines.get("dgx-h100")
    text = "\n".join(line for line in reported("dgx-h100").splitlines() if machine.gpus[7].uuid not in line)
    environ = driver.environment(library, text, tmp_path)
    done = affinity("show", "--machine", "dgx-h100", "--json", AFFINITY_DEVICES="nvml,pci", environ=environ)
    found = {gpu["uuid"]: gpu for gpu in schemas.load("show", done.stdout)["gpus"]}
    assert list(found) == [*(gpu.uuid for gpu in machine.gpus[:7]), None]
    assert [gpu["visible"] for gpu in found.values()] == [True] * 7 + [False]
    assert {gpu["model"] for gpu in found.values()} == {machine.gpus[0].model, ""}
    assert {gpu["node_reason"] for gpu in found.values()} == {"from PCI numa_node"}


def test_a_provider_that_is_named_and_missing_is_an_error() -> None:
    """A typing error must not look like a machine without GPUs."""
    host = Host.synthetic("pack:2 core:2 gpu:2")
    with pytest.raises(Exception, match="nvlm"):
        _ = Inventory(host, Settings(devices=("nvlm",)), {}, Plugins().devices).machine
