"""Which GPUs belong to a local rank: one, if the rank is an index into the visible ones; else all that are visible."""

from __future__ import annotations

import pytest

import affinity
from affinity import NodeSet
from affinity.cli._run import _report_chosen_gpus
from affinity.testing import FakeHost

ALL = list(range(8))
STEP = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


def mpi(rank: int, size: int) -> dict[str, str]:
    return {
        "OMPI_COMM_WORLD_SIZE": "16",
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(size),
    }


def step(rank: int, **environ: str) -> dict[str, str]:
    return {**STEP, "SLURM_LOCALID": str(rank), **environ}


SEVERAL = "on several nodes: it is placed on all of these"
INDEX = "was taken as an index into the 8 visible GPUs: name its GPUs (gpu=…) if it uses others"
NO_INDEX = "is no index into the {} visible GPUs: it is placed next to all of them; name its GPU (gpu=…)"


@pytest.mark.parametrize(
    ("environ", "visible", "gpus", "note"),
    [
        # each rank has a GPU, or sees one
        (mpi(5, 8), None, [5], ""),
        (mpi(3, 8), "6", [6], ""),
        (step(5), None, [5], ""),
        (step(5, SLURM_STEP_TASKS_PER_NODE="8"), None, [5], ""),
        # the only worker of the machine has all
        (mpi(0, 1), None, ALL, f"the only worker here has all 8 visible GPUs, {SEVERAL}"),
        (mpi(0, 1), "0,1", [0, 1], ""),
        ({"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, None, ALL, SEVERAL),
        (step(0, SLURM_NTASKS_PER_NODE="1"), None, ALL, SEVERAL),
        (step(0, SLURM_STEP_TASKS_PER_NODE="1(x4)"), None, ALL, SEVERAL),
        (step(0, SLURM_TASKS_PER_NODE="1"), None, ALL, SEVERAL),
        (step(0, SLURM_STEP_TASKS_PER_NODE="2(x3),1", SLURM_NODEID="3"), None, ALL, SEVERAL),
        (step(0, SLURM_STEP_TASKS_PER_NODE="1", SLURM_NTASKS_PER_NODE="8"), None, ALL, SEVERAL),
        # several workers have more GPUs than they are
        (step(1, SLURM_STEP_TASKS_PER_NODE="2(x3),1", SLURM_NODEID="2"), None, [1], f"local rank 1 of 2 {INDEX}"),
        (mpi(1, 4), None, [1], f"local rank 1 of 4 {INDEX}"),
        # a task that Slurm gave GPUs of its own
        (step(3, SLURM_STEP_TASKS_PER_NODE="4", SLURM_GPUS_PER_TASK="2"), "6,7", [6, 7], ""),
        (step(1, SLURM_STEP_TASKS_PER_NODE="2", SLURM_GPUS_PER_TASK="2"), "2,5", [2, 5], f"its GPUs are {SEVERAL}"),
        (step(1, SLURM_STEP_TASKS_PER_NODE="4", SLURM_TRES_PER_TASK="cpu:8,gres/gpu:2"), "2,3", [2, 3], ""),
        (step(1, SLURM_STEP_TASKS_PER_NODE="8", SLURM_GPUS_PER_TASK="1", SLURM_GPU_BIND="none"), None, [1], ""),
        (step(1, SLURM_STEP_TASKS_PER_NODE="8", SLURM_GPUS_PER_TASK="1", SLURM_GPU_BIND="verbose,none"), None, [1], ""),
        # more workers than GPUs: each has some of its own, or they share
        (mpi(1, 4), "4,5", [4, 5], f"local rank 1 of 4 {NO_INDEX.format(2)}"),
        (mpi(9, 64), None, ALL, f"local rank 9 of 64 {NO_INDEX.format(8)}"),
        (step(9), None, ALL, f"local rank 9 {NO_INDEX.format(8)}"),
        (step(8), None, ALL, f"local rank 8 {NO_INDEX.format(8)}"),
        # lists that do not state how many tasks are on this node
        (step(5, SLURM_STEP_TASKS_PER_NODE="8,1", SLURM_NODEID=""), None, [5], ""),
        (step(5, SLURM_STEP_TASKS_PER_NODE="8,1", SLURM_NODEID="2"), None, [5], ""),
        (step(5, SLURM_STEP_TASKS_PER_NODE="8(x", SLURM_NTASKS_PER_NODE=""), None, [5], ""),
    ],
)
@pytest.mark.parametrize("mode", [None, "command"], ids=["bind()", "affinity run"])
def test_a_local_rank_is_an_index_only_if_each_worker_has_one_of_the_visible_gpus(
    environ: dict[str, str], visible: str | None, gpus: list[int], note: str, mode: str | None
) -> None:
    """A worker is never placed next to one of several GPUs that it has without a note."""
    shown = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    host = FakeHost("dgx-h100", environ={**environ, **shown}).host
    launch = affinity.plan(host=host, launch_mode=mode).launch
    assert [launch.machine_gpus.index(gpu) for gpu in launch.gpus] == gpus
    assert " ".join(launch.notes).endswith(note)
    assert bool(launch.notes) == bool(note)


def test_the_only_task_of_a_machine_is_placed_on_the_nodes_of_its_gpus_and_reports_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the line of `affinity run`: each GPU, the CPUs and the memory of both nodes, and the reason."""
    host = FakeHost("dgx-h100", environ=step(0, SLURM_STEP_TASKS_PER_NODE="1")).host
    planned = affinity.plan(host=host, launch_mode="command")
    assert planned.launch.gpu_nodes == NodeSet([0, 1])
    assert planned.placement is not None
    assert planned.placement.cpus == host.allowed_cpus
    _report_chosen_gpus(planned)
    (line,) = capsys.readouterr().err.splitlines()
    assert all(str(gpu.pci) in line for gpu in planned.launch.gpus)
    assert planned.placement.summary in line
    assert line.endswith(f"(the only worker here has all 8 visible GPUs, {SEVERAL})")


@pytest.mark.parametrize("environ", [
    step(1, SLURM_STEP_TASKS_PER_NODE="8", SLURM_GPUS_PER_TASK="1", CUDA_VISIBLE_DEVICES="6"),
    {**mpi(1, 8), "CUDA_VISIBLE_DEVICES": "6"},
    {"CUDA_VISIBLE_DEVICES": "6"},
], ids=["srun --gpus-per-task", "mpirun", "container"])  # fmt: skip
def test_one_visible_gpu_is_the_tasks_without_a_line(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its node is not that of the GPU with the local rank's number."""
    planned = affinity.plan(host=FakeHost("dgx-h100", environ=environ).host, launch_mode="command")
    assert planned.launch.gpu_nodes == NodeSet([1])
    _report_chosen_gpus(planned)
    assert capsys.readouterr().err == ""
