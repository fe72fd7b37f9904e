"""`affinity bench` of the server: what is measured on which machine, the verdict, and the processes that measure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import driver
import pytest
import schemas
from commands import affinity

from affinity import CpuSet, NodeSet, Settings, UsageError
from affinity.benchmark.server import FROM_GPU, TO_GPU, Job, Measurement, Place, jobs, measure, run_job
from affinity.cli import bench
from affinity.kernel.linux import LinuxKernel
from affinity.kernel.memory_speed import copy_bandwidth, emulated_processor, load_latency
from affinity.observe import observe
from affinity.plugins import Plugins
from affinity.testing import FakeHost
from affinity.topology.model import Cache, TopologySource

CPUS = CpuSet(sorted(os.sched_getaffinity(0)))
NODE = LinuxKernel().allowed_nodes().first()
MIB = 1 << 20


def todo(machine: str, *, with_cuda: bool = True, emulated: bool = False) -> tuple[list[Job], list[str]]:
    host = FakeHost(machine).host
    launch = observe(Plugins(), gpu="all", launch_mode="spawn", settings=Settings(), host=host).launch
    return jobs(host, launch.gpus, with_cuda=with_cuda, emulated=emulated)


# ---------------------------------------------------------------- what is measured


def test_cpus_of_each_node_and_each_gpu_reach_memory_of_each_node() -> None:
    """A core counts once; a GPU is measured by a process on the node of the memory, where a worker would be."""
    found, notes = todo("dgx-h100")
    cpus, gpus = found[:2], found[2:]
    assert [(job.place.name, str(job.cpus), job.nodes) for job in cpus] == [
        ("CPUs of node 0", "0-55", (0, 1)),
        ("CPUs of node 1", "56-111", (0, 1)),
    ]
    assert len(gpus) == 16
    assert [(job.place.name, job.place.node, str(job.cpus), job.nodes) for job in gpus[6:10]] == [
        ("GPU 0000:61:00.0", 0, "0-55", (0,)),
        ("GPU 0000:61:00.0", 0, "56-111", (1,)),
        ("GPU 0000:9d:00.0", 1, "0-55", (0,)),
        ("GPU 0000:9d:00.0", 1, "56-111", (1,)),
    ]
    assert notes == []


class LargeCaches:
    """A topology's source, with L3 caches of another size."""

    def __init__(self, source: TopologySource, size: int) -> None:
        self._source, self._size = source, size

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def caches(self) -> tuple[Cache, ...]:
        return tuple(attrs.evolve(c, size=self._size) if c.level == 3 else c for c in self._source.caches())


@pytest.mark.parametrize(("l3", "size"), [(105, 256), (400, 800), (4000, 2048)])
def test_what_is_copied_is_larger_than_the_caches(l3: int, size: int) -> None:
    """Twice the L3 of a node, from 256 MiB to 2 GiB."""
    host = FakeHost("dgx-h100").host
    large = attrs.evolve(host.topology, source=LargeCaches(host.topology.source, l3 * MIB))
    found, _ = jobs(attrs.evolve(host, topology=large), (), with_cuda=False, emulated=False)
    assert {job.size for job in found} == {size * MIB}


def test_a_node_without_room_is_left_out() -> None:
    """An eighth of what is free is copied, and 16 MiB at the least."""
    full = FakeHost("dgx-a100", free=dict.fromkeys(range(8), 1 << 40) | {3: 100 * MIB, 5: 800 * MIB}).host
    found, notes = jobs(full, (), with_cuda=False, emulated=False)
    assert {job.nodes for job in found} == {(0, 1, 2, 4, 5, 6, 7)}
    assert {job.size for job in found} == {100 * MIB}
    assert notes == ["memory of node 3 is not measured: less than 128 MiB of it are free"]
    with pytest.raises(UsageError, match="nothing to compare: memory of node 1 is not measured"):
        jobs(FakeHost("dgx-h100", free={0: 1 << 40, 1: MIB}).host, (), with_cuda=False, emulated=False)


def test_memory_without_cpus_is_reached_from_the_nearest() -> None:
    """A GH200's memory of its GPU."""
    found, _ = todo("gh200")
    assert [job.place.name for job in found] == ["CPUs of node 0", *["GPU 0009:01:00.0"] * len(found[0].nodes)]
    assert {str(job.cpus) for job in found} == {"0-71"}


@pytest.mark.parametrize(("machine", "emulated", "reason"), [
    ("vm-one-gpu", False, r"memory of one node is allowed here \(0\)"),
    ("container-without-gpu-node", False, r"memory of one node is allowed here \(0\)"),
    ("numa-fake", False, r"the nodes share their CPUs, the kernel has divided one \(numa=fake\)"),
    ("dgx-h100", True, "the processor is emulated"),
])  # fmt: skip
def test_where_there_is_nothing_to_compare_is_an_error(machine: str, emulated: bool, reason: str) -> None:
    with pytest.raises(UsageError, match=f"nothing to compare: {reason}"):
        todo(machine, emulated=emulated)


def test_gpus_that_cannot_be_measured_are_notes() -> None:
    found, notes = todo("mi300x")
    assert {job.place.gpu for job in found} == {None}
    assert notes[0].endswith("is not measured: expected one of NVIDIA, found amd")
    found, notes = todo("dgx-h100", with_cuda=False)
    assert {job.place.gpu for job in found} == {None}
    assert notes == ["GPUs are not measured: cuda-bindings is missing; pip install 'numa-affinity[bench]'"]


@pytest.mark.parametrize(("text", "emulated"), [
    ("processor\t: 0\nmodel name\t: QEMU TCG CPU version 2.5+\nflags\t\t: fpu\n", True),
    ("processor\t: 0\nCPU implementer\t: 0x00\nCPU part\t: 0x051\n", True),
    ("processor\t: 0\nmodel name\t: INTEL(R) XEON(R) PLATINUM 8480C\nflags\t\t: fpu hypervisor\n", False),
    ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n", False),
])  # fmt: skip
def test_an_emulated_processor_is_recognized(tmp_path: Path, text: str, emulated: bool) -> None:
    """Of x86 and of AArch64: a virtual machine on a real one is none."""
    (tmp_path / "cpuinfo").write_text(text)
    assert emulated_processor(str(tmp_path / "cpuinfo")) is emulated


# ---------------------------------------------------------------- rounds and verdict

GPUS = (Place("GPU a", 0, "0000:1b:00.0"), Place("GPU b", 1, "0000:9a:00.0"))
Lines = tuple[Sequence[Mapping[str, float | None]], float]


def measured(of: Mapping[str, Sequence[Mapping[int, float]]], places: Sequence[Place] = GPUS) -> Measurement:
    """Rounds of numbers by place and node, in GB/s, of copies to a GPU or by CPUs."""
    rounds = {name: iter(numbers) for name, numbers in of.items()}

    def run(job: Job) -> Lines:
        key = "to_gpu" if job.place.gpu else "bandwidth"
        numbers = next(rounds[job.place.name])
        return [{"node": node, key: value * 1e9} for node, value in numbers.items()], 0.25

    found = [Job(place, CPUS, (0, 1), MIB) for place in places]
    count = len(next(iter(of.values())))
    return measure(found, count, run, cpu_nodes=NodeSet([0, 1]), notes=(), progress=lambda _: None)


def test_the_verdict_on_one_gpu_names_its_node() -> None:
    """The rounds differ by a factor of two; near and far, by 1.5 to 1.6."""
    found = measured({"GPU b": [{0: 20, 1: 32}, {0: 10, 1: 15}, {0: 16, 1: 25.6}]}, GPUS[1:])
    assert found.verdict == "copies to GPU b are 1.6 x (1.5 to 1.6) as fast from node 1 as elsewhere: bind"
    assert found.notes == ()
    assert found.others == 0.25


def test_the_verdict_on_several_gpus_is_of_all_of_them() -> None:
    found = measured({"GPU a": [{0: 40, 1: 20}] * 2, "GPU b": [{0: 20, 1: 24}] * 2})
    assert found.verdict == "copies to 2 GPUs are 1.6 x (1.2 to 2) as fast from the node of each as elsewhere: bind"


def test_no_difference_is_no_advice() -> None:
    found = measured({"GPU a": [{0: 40, 1: 41}, {0: 40, 1: 39}]}, GPUS[:1])
    assert found.verdict.endswith("as fast from node 0 as elsewhere: no difference that each round shows")


def test_without_gpus_the_verdict_is_of_cpus() -> None:
    places = (Place("CPUs of node 0", 0), Place("CPUs of node 1", 1))
    found = measured({"CPUs of node 0": [{0: 200, 1: 100}] * 2, "CPUs of node 1": [{0: 100, 1: 200}] * 2}, places)
    assert found.verdict == "copies are 2 x (2 to 2) as fast in memory of the node whose CPUs copy as elsewhere: bind"


@pytest.mark.parametrize(("node", "shown"), [(0, "node 0 is shown as its own"), (None, "its node is unknown")])
def test_a_gpu_that_is_faster_from_another_node_is_a_note(node: int | None, shown: str) -> None:
    """Firmware has been seen to be wrong."""
    found = measured({"GPU a": [{0: 20, 1: 30}] * 2}, (Place("GPU a", node, "0000:1b:00.0"),))
    assert found.notes == (
        f"GPU a: {shown}, but copies from node 1 are 1.5 x (1.5 to 1.5) as fast as from the others: see AFFINITY_NODES",
    )
    assert "do not bind" in found.verdict or node is None


def test_each_round_begins_with_another_and_what_fails_is_run_no_more() -> None:
    """The numbers of the others are kept."""
    ran: list[str] = []

    def run(job: Job) -> Lines:
        ran.append(job.place.name)
        if job.place == GPUS[0]:
            raise UsageError("cuInit: CUDA_ERROR_NO_DEVICE")
        return [{"node": 1, "to_gpu": 2e9, "from_gpu": None}], 0.0

    progress: list[str] = []
    two = [Job(place, CPUS, (1,), MIB) for place in GPUS]
    found = measure(two, 2, run, cpu_nodes=NodeSet([0, 1]), notes=["before"], progress=progress.append)
    assert ran == ["GPU a", "GPU b", "GPU b"]
    assert found.notes == ("before", "GPU a: not measured: cuInit: CUDA_ERROR_NO_DEVICE")
    assert (found.values(TO_GPU, GPUS[1], 1), found.values(FROM_GPU, GPUS[1], 1)) == ([2.0, 2.0], ())
    assert found.verdict == "nothing was measured that could be compared"
    assert progress[-1] == "round 2 of 2, GPU b with memory of node 1"


# ---------------------------------------------------------------- the processes that measure


def test_a_process_measures_memory_of_a_node() -> None:
    ((line,), others) = run_job(Job(Place("CPUs", NODE), CPUS, (NODE,), 32 * MIB))
    assert line["node"] == NODE
    assert 1e8 < (line["bandwidth"] or 0) < 1e13
    assert 1e-9 < (line["latency"] or 0) < 1e-4
    assert others >= 0


def test_loads_from_memory_take_longer_than_those_from_a_cache() -> None:
    """So each waits for the one before."""
    near, far = load_latency(8 << 10, 0.05), load_latency(256 * MIB, 0.1)
    assert near is not None
    assert far is not None
    assert far > 5 * near


def test_the_calling_thread_stays_where_it_was() -> None:
    copy_bandwidth(MIB, list(CPUS)[:1], 0.01)
    assert CpuSet(os.sched_getaffinity(0)) == CPUS


def test_a_node_that_is_not_there_is_the_kernels_error() -> None:
    with pytest.raises(UsageError, match="Invalid argument"):
        run_job(Job(Place("CPUs", 0), CPUS, (1000,), MIB))


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver.build_cuda(tmp_path)))
    monkeypatch.setenv("FAKE_CUDA", "0000:1b:00.0")


def gpu_job(address: str) -> Job:
    return Job(Place(f"GPU {address}", NODE, address), CPUS, (NODE,), 16 * MIB)


@pytest.mark.usefixtures("cuda")
def test_a_gpu_is_measured_through_the_driver() -> None:
    """The real cuda-bindings, with a driver whose GPU has memory of the host."""
    ((line,), _) = run_job(gpu_job("0000:1b:00.0"))
    assert line.keys() == {"node", "to_gpu", "from_gpu", "small_copy", "launch"}
    assert all((line[key] or 0) > 0 for key in ("to_gpu", "from_gpu", "small_copy", "launch"))


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(("address", "error", "shown"), [
    ("0000:3d:00.0", "", "cuDeviceGetByPCIBusId: CUDA_ERROR_INVALID_DEVICE"),
    ("0000:1b:00.0", "cuInit 100", "cuInit: CUDA_ERROR_NO_DEVICE"),
    ("0000:1b:00.0", "cuMemHostRegister 2", "cuMemHostRegister: CUDA_ERROR_OUT_OF_MEMORY"),
    ("0000:1b:00.0", "cuLaunchKernel 719", "cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED"),
])  # fmt: skip
def test_an_error_of_the_driver_has_cudas_own_name(
    monkeypatch: pytest.MonkeyPatch, address: str, error: str, shown: str
) -> None:
    monkeypatch.setenv("FAKE_CUDA_ERROR", error)
    with pytest.raises(UsageError, match=f"{shown}$"):
        run_job(gpu_job(address))


# ---------------------------------------------------------------- what is printed


def test_the_command_prints_tables_and_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    found = measured({"GPU a": [{0: 40, 1: 20}, {0: 44, 1: 22}], "GPU b": [{0: 20, 1: 24}, {1: 24}]})
    bench.show(found, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "Copies from pinned memory to the GPU, GB/s (more is better)",
        "of     node  memory of 0  memory of 1",
        "GPU a  0     42 ± 2       21 ± 1",
        "GPU b  1     20 ± 0       24 ± 0",
        "",
        "copies to 2 GPUs are 1.6 x (1.2 to 2) as fast from the node of each as elsewhere: bind",
    ]
    bench.show(found, as_json=True)
    printed = schemas.load("bench", capsys.readouterr().out)
    assert printed["grids"][0]["rows"][1]["values"] == {"0": [20.0], "1": [24.0, 24.0]}


@pytest.mark.parametrize("option", ["--metric=x", "--lower-is-better", "--node=0"])
def test_an_option_for_a_command_without_one_is_an_error(option: str) -> None:
    done = affinity("bench", option)
    assert done.returncode == 2
    assert done.stderr == f"affinity: {option.split('=', maxsplit=1)[0]} is for a command: give it with --command\n"
