"""What started this worker, from its variables and its parents'; what a launch mode and a launcher's name mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest

import affinity
from affinity import CpuSet, LaunchMode, PluginError, Settings, UsageError
from affinity.devices import Evidence, GpuUse
from affinity.kernel import Process
from affinity.launchers import Launch, Launcher
from affinity.launchers.detect import detect, is_launchers_own, own_variables
from affinity.plugins import Plugins
from affinity.report.log import log_warnings
from affinity.report.processes import GpuProcesses
from affinity.testing import FakeHost

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8"}
DEEPSPEED = {"CROSS_RANK": "0", "CROSS_SIZE": "1", "LOCAL_SIZE": "4", "LOCAL_RANK": "1", "RANK": "1"}
MPI = {"OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_LOCAL_RANK": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
HYDRA = {"PMI_RANK": "6", "PMI_SIZE": "16", "MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "4"}
SLURM = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "1"}
FLUX = {"FLUX_JOB_ID": "ƒ2", "FLUX_TASK_LOCAL_ID": "3", "FLUX_JOB_SIZE": "16", "FLUX_JOB_NNODES": "4"}
PMIX = {"PMIX_RANK": "1", "PMIX_NAMESPACE": "prterun-node1-77@1"}
RAY = {"RAY_RAYLET_PID": "1", "RAY_JOB_ID": "01000000"}


def process(**environ: str) -> Process:
    return FakeHost(environ=environ).kernel


@pytest.mark.parametrize(
    ("environ", "mode", "launcher", "rank", "size"),
    [
        ({}, LaunchMode.INLINE, "", None, None),
        (TORCHRUN, LaunchMode.TORCHRUN, "torchrun", 3, 8),
        (DEEPSPEED, LaunchMode.INLINE, "deepspeed", 1, 4),
        (MPI, LaunchMode.MPI, "openmpi", 2, 4),
        (HYDRA, LaunchMode.MPI, "hydra", 2, 4),
        ({**SLURM, **HYDRA}, LaunchMode.MPI, "hydra", 2, 4),
        ({**SLURM, "PMI_RANK": "6"}, LaunchMode.SLURM, "slurm", 1, None),
        (SLURM, LaunchMode.SLURM, "slurm", 1, None),
        ({**SLURM, **MPI}, LaunchMode.MPI, "openmpi", 2, 4),
        ({**SLURM, **TORCHRUN}, LaunchMode.TORCHRUN, "torchrun", 3, 8),
        (FLUX, LaunchMode.INLINE, "flux", 3, None),
        ({**FLUX, "FLUX_JOB_NNODES": "1"}, LaunchMode.INLINE, "flux", 3, 16),
        ({**SLURM, **FLUX}, LaunchMode.INLINE, "flux", 3, None),
        ({**FLUX, **HYDRA}, LaunchMode.MPI, "hydra", 2, 4),
        (PMIX, LaunchMode.INLINE, "", None, None),
        ({**MPI, **PMIX}, LaunchMode.MPI, "openmpi", 2, 4),
        ({**SLURM, **PMIX}, LaunchMode.SLURM, "slurm", 1, None),
        (RAY, LaunchMode.RAY, "ray", None, None),
        ({**RAY, **TORCHRUN}, LaunchMode.TORCHRUN, "torchrun", 3, 8),
        ({"LOCAL_RANK": "1"}, LaunchMode.INLINE, "", None, None),
    ],
)
def test_the_closest_launcher_wins(
    environ: dict[str, str], mode: LaunchMode, launcher: str, rank: int | None, size: int | None
) -> None:
    """torchrun inside a Slurm step is torchrun; a lone LOCAL_RANK belongs to no launcher."""
    found = detect(process(**environ), Plugins().launchers)
    launch = found.launch
    assert (launch.mode, launch.launcher, launch.local_rank, launch.local_size) == (mode, launcher, rank, size)
    assert launch.reason
    assert (found.launcher is None) == (launcher == "")


def test_a_rank_that_is_no_number_is_refused_naming_the_variable() -> None:
    """Rather than taken for rank 0."""
    with pytest.raises(UsageError, match="LOCAL_RANK='three'"):
        affinity.plan(node=0, host=FakeHost(environ={**TORCHRUN, "LOCAL_RANK": "three"}).host)


class Starter:
    """The only thing that is asked of a starter."""

    def __init__(self, environ: Mapping[str, str] | OSError) -> None:
        self._environ = environ

    @property
    def environ(self) -> Mapping[str, str]:
        if isinstance(self._environ, OSError):
            raise self._environ
        return self._environ


def test_a_processs_own_variables_are_those_that_its_starter_lacks_or_has_with_another_value() -> None:
    """All of them if the starter is unknown, or another user's."""
    worker = process(A="1", B="2", C="3")
    own = own_variables(worker, Starter({"A": "1", "B": "0"}))  # type: ignore[arg-type]
    assert {name: own[name] for name in "ABC" if name in own} == {"B": "2", "C": "3"}
    for unknown in (None, Starter(PermissionError(13, "Permission denied"))):
        assert own_variables(worker, unknown) == worker.environ  # type: ignore[arg-type]


class Acme(Launcher):
    """A launcher of a third party, close to its workers."""

    distance = 5
    notified: ClassVar[list[affinity.BindReport | None]] = []

    def detect(self, environ: Mapping[str, str], process: Process) -> Launch | None:
        rank = environ.get("ACME_LOCAL_ID")
        return None if rank is None else Launch(self.mode, "ACME_LOCAL_ID", local_rank=int(rank))

    def notify(self, report: affinity.BindReport | None) -> None:
        if report is not None and report.requested is None:
            raise ConnectionError("no broker")
        self.notified.append(report)


class Broken(Launcher):
    """Asked first, with three mistakes in it."""

    distance = 0

    def detect(self, environ: Mapping[str, str], process: Process) -> Launch | None:
        raise ZeroDivisionError("no node")

    def starter(self, process: Process) -> Process | None:
        raise LookupError("no starter")

    def autostart(self, program: str) -> bool:
        raise ArithmeticError("no program")

    def worker_name(self, command: Sequence[str]) -> str:
        raise IndexError("no name")


class Pool(Launcher):
    """Children that a pool of another library forks; it fails to find the process that did."""

    mode, distance = LaunchMode.SPAWN, 6

    def detect(self, environ: Mapping[str, str], process: Process) -> Launch | None:
        return Launch(self.mode, "POOL_CHILD") if "POOL_CHILD" in environ else None

    def starter(self, process: Process) -> Process | None:
        raise LookupError("no pool")


class Modeless(Acme):
    mode = "inline"  # type: ignore[assignment]


class Distant(Acme):
    distance = "far"  # type: ignore[assignment]


@pytest.fixture
def installed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launchers of this file, as a distribution."""
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    names = {
        "acme": "Acme",
        "pool": "Pool",
        "wreck": "Broken",
        "modeless": "Modeless",
        "distant": "Distant",
        "absent": "Absent",
    }
    lines = [f"{name} = {__name__}:{cls}" for name, cls in names.items()]
    (info / "entry_points.txt").write_text("\n".join(["[affinity.launchers]", *lines, ""]))
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("installed")
def test_a_third_partys_launcher_is_found_and_broken_ones_are_notes() -> None:
    """One cannot be loaded, two declare nonsense, one raises at each call: the others answer."""
    fake = FakeHost("dgx-h100", environ={**TORCHRUN, "ACME_LOCAL_ID": "6"})
    launch = affinity.plan(host=fake.host).launch
    assert (launch.launcher, launch.mode, launch.gpus) == ("acme", LaunchMode.INLINE, (launch.machine_gpus[6],))
    reported = "\n".join(launch.notes)
    assert "launcher wreck raised LookupError: no starter; report it to its author" in reported
    assert "launcher wreck raised ZeroDivisionError: no node" in reported
    assert "its mode is 'inline', expected a LaunchMode" in reported
    assert "its distance is 'far', expected a whole number" in reported
    assert "there is no 'Absent' in module" in reported


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("starts", [False, True], ids=["bind", "spawning"])
def test_a_launcher_that_raises_where_a_worker_starts_is_a_warning(starts: bool, caplog: Any) -> None:
    """With its name, each mistake once. The worker is bound."""
    fake = FakeHost("dgx-h100", environ={"ACME_LOCAL_ID": "6"})
    log_warnings.cache_clear()
    if starts:
        with affinity.spawning(gpu=6, host=fake.host):
            worker = fake.start_worker()
        assert worker.kernel.get_affinity() == fake.topology.by_id[1].cpus
    else:
        assert affinity.bind(host=fake.host).satisfied
    raised = [text for text in caplog.messages if "wreck raised" in text]
    assert raised == [
        "affinity: launcher wreck raised LookupError: no starter; report it to its author",
        "affinity: launcher wreck raised ZeroDivisionError: no node; report it to its author",
    ]


@pytest.mark.usefixtures("installed")
def test_a_launcher_that_raises_at_the_start_of_an_interpreter_is_a_warning(caplog: Any) -> None:
    """It counts as one that does not claim the program."""
    assert not is_launchers_own("train.py", Plugins().launchers)
    assert caplog.messages == ["affinity: launcher wreck raised ArithmeticError: no program; report it to its author"]


@pytest.mark.usefixtures("installed")
def test_a_launcher_that_raises_over_a_command_line_names_no_worker() -> None:
    """`affinity ps` has its row nevertheless."""
    fake = FakeHost("pack:1 core:4 gpu:1")
    other = fake.start_process()
    use = GpuUse(other.pid, fake.topology.pci_devices[0].address, Evidence.USES, "a driver")
    (row,) = GpuProcesses.of(fake.host, Settings()).rows([use])
    assert row.worker == ""


@pytest.mark.usefixtures("installed")
def test_a_launcher_that_recognises_a_child_and_finds_no_starter_is_a_note() -> None:
    """The child is placed as if its starter were unknown."""
    launch = affinity.plan(host=FakeHost("dgx-h100", environ={"POOL_CHILD": "1"}).host).launch
    assert (launch.launcher, launch.mode, launch.gpus) == ("pool", LaunchMode.SPAWN, launch.machine_gpus)
    assert [n for n in launch.notes if n.startswith("launcher pool")] == [
        "launcher pool raised LookupError: no pool; report it to its author"
    ]


@pytest.mark.usefixtures("installed")
def test_a_launchers_name_is_a_launch_mode_and_only_that_launcher_is_asked() -> None:
    """Its mode holds even if it does not recognise the process; one that is broken is an error."""
    fake = FakeHost("dgx-h100", environ={**TORCHRUN, "ACME_LOCAL_ID": "6"})
    launch = affinity.plan(host=fake.host, launch_mode="openmpi").launch
    assert (launch.launcher, launch.mode, launch.local_rank) == ("openmpi", LaunchMode.MPI, None)
    launch = affinity.plan(host=fake.host, launch_mode="acme").launch
    assert (launch.launcher, launch.mode, launch.local_rank, launch.notes) == ("acme", LaunchMode.INLINE, 6, ())
    foreign = affinity.Host.synthetic("pack:2 core:2 gpu:1")
    assert affinity.plan(gpu=0, host=foreign, launch_mode="hydra").launch.mode is LaunchMode.MPI
    with pytest.raises(PluginError, match="there is no 'Absent'"):
        affinity.plan(host=fake.host, launch_mode="absent")


@pytest.mark.usefixtures("installed")
def test_a_launcher_is_notified_of_each_bind_and_undo(caplog: pytest.LogCaptureFixture) -> None:
    """With the report in force, which `current_report` returns; None at the end. What it raises is a warning."""
    Acme.notified.clear()
    elsewhere = affinity.current_report()
    host = FakeHost("dgx-h100", environ={"ACME_LOCAL_ID": "6"}).host
    first = affinity.bind(host=host)
    second = affinity.bind(gpu=0, host=host)
    assert affinity.current_report(host=host) is second
    second.undo()
    assert affinity.current_report(host=host) is first
    with affinity.restored(host=host):
        third = affinity.bind(gpu=1, host=host)
    first.undo()
    assert Acme.notified == [first, second, first, third, first, None]
    assert affinity.current_report(host=host) is None
    assert affinity.current_report() is elsewhere, "that of this process"
    caplog.clear()
    nowhere = Settings(policy="explicit", cpus=(CpuSet([4000]),) * 8)
    impossible = affinity.bind(gpu=0, host=host, settings=nowhere)
    assert affinity.current_report(host=host) is impossible
    (warning,) = [text for text in caplog.messages if "notified" in text]
    assert warning == "affinity: launcher acme was not notified of this bind: ConnectionError: no broker"


def test_a_fork_has_no_report_in_force(python: Callable[..., Any]) -> None:
    """It was made in another process. A child that undoes its own bind is back there too."""
    text = """
import os, affinity
report = affinity.bind(node=0)
if not os.fork():
    mine = [affinity.current_report()]
    own = affinity.bind(node=0)
    mine += [affinity.current_report() is own, own.undo() and affinity.current_report()]
    print(mine, flush=True); os._exit(0)
os.wait()
print(affinity.current_report() is report, report.undo() and affinity.current_report())
"""
    assert python(text).stdout == "[None, True, None]\nTrue None\n"


def test_a_mode_in_the_callers_words_keeps_what_was_detected() -> None:
    """`spawn`: a rank that starts a worker for its own GPU."""
    launch = affinity.plan(host=FakeHost("dgx-h100", environ=TORCHRUN).host, launch_mode="spawn").launch
    assert (launch.mode, launch.launcher, launch.gpus) == (LaunchMode.SPAWN, "torchrun", (launch.machine_gpus[3],))


def test_an_unknown_mode_is_refused_naming_the_known() -> None:
    """`--launch-mode`."""
    with pytest.raises(UsageError, match="expected one of spawn"):
        LaunchMode.parse("systemd")
    assert LaunchMode.parse("Ray") is LaunchMode.RAY
    with pytest.raises(UsageError, match=r"'systemd' is not known: expected one of spawn.* or a launcher: deepspeed, "):
        affinity.plan(launch_mode="systemd", host=FakeHost("dgx-h100").host)


@pytest.mark.parametrize(
    "arguments",
    [{"node": "1"}, {"node": -1}, {"node": 1.0}, {"gpu": 1.0}, {"gpu": b"1"}, {"gpu": [b"1"]}, {"gpu": -1}],
)
def test_what_is_no_number_and_no_name_is_refused_saying_what_was_expected(arguments: dict[str, Any]) -> None:
    """No traceback from inside, and no byte taken for an ordinal."""
    (name,) = arguments
    with pytest.raises(UsageError, match=rf"{name}=.*: a whole number from 0 was expected"):
        affinity.plan(**arguments, host=FakeHost("dgx-h100").host)


def test_a_launch_mode_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="launch mode 5 is not known: expected one of"):
        affinity.plan(launch_mode=5, host=FakeHost("dgx-h100").host)  # type: ignore[arg-type]


def test_a_gpu_and_a_node_at_once_are_refused() -> None:
    """One of them would be ignored, even a GPU that is not there."""
    host = FakeHost("dgx-h100").host
    for call in (affinity.plan, affinity.bind, lambda **k: affinity.spawning(**k).__enter__()):
        with pytest.raises(UsageError, match=r"use either gpu=… or node=…, not both"):
            call(gpu="no such", node=0, host=host)  # type: ignore[operator]
