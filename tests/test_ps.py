"""`affinity ps` on a machine with two nodes and two GPUs in a mount namespace: real processes, masks and memory."""

from __future__ import annotations

import os
import pty
import pwd
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import driver
import pytest
import schemas
import seccomp
from commands import COMMAND, affinity, called
from mounted import GPU0, GPU1, Mounted, machine, mounted
from test_process import RealChild, as_user

MIB = 1 << 20
ROOT = Path(__file__).resolve().parent.parent
PCI = {"AFFINITY_DEVICES": "pci"}

#: Another user, and its name.
OTHER_ID = 65534
OTHER = pwd.getpwuid(OTHER_ID).pw_name


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver.build(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("machine") / "root", machine(), library) as made:
        yield made


@attrs.frozen
class Shell:
    """A process that waits, which starts ten times as fast as one that takes orders."""

    running: subprocess.Popen[str]
    pid: int

    @classmethod
    def with_files(cls, files: tuple[str, ...], *prefix: str) -> Shell:
        opened = " ".join(f"{number}<{file}" for number, file in enumerate(files, 3))
        command = [*prefix, "sh", "-c", f"exec {opened}; echo $$; read line"]
        running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        return cls(running, int(running.stdout.readline()))

    def end(self) -> None:
        self.running.communicate("\n")


Start = Callable[..., Shell]
StartProgram = Callable[..., RealChild]


@pytest.fixture
def start(there: Mounted) -> Iterator[Start]:
    """Start a process on the machine, on these CPUs, with the files of these GPUs open: `start({0}, 0)`."""
    with ExitStack() as ends:

        def started(cpus: set[int], *gpus: int, prefix: tuple[str, ...] = ()) -> Shell:
            shell = Shell.with_files(("/dev/nvidiactl", *map(there.file, gpus)), *there.prefix, *prefix)
            ends.callback(shell.end)
            os.sched_setaffinity(shell.pid, cpus)
            return shell

        yield started


@pytest.fixture
def start_program(there: Mounted) -> Iterator[StartProgram]:
    """Start a process that takes orders, with the file of GPU 0 open."""
    with ExitStack() as ends:

        def started(cpus: set[int], prefix: tuple[str, ...] = ()) -> RealChild:
            child = RealChild(*there.prefix, *prefix, handoff="")
            ends.callback(child.end)
            os.sched_setaffinity(child.pid, cpus)
            for file in ("/dev/nvidiactl", there.file(0)):
                child.order("open", file)
            return child

        yield started


@contextmanager
def sleeping(there: Mounted, count: int) -> Iterator[list[int]]:
    """Processes that have the files of GPU 0 open, from one shell, which is faster than as many interpreters."""
    text = f"""
exec 3</dev/nvidiactl 4<{there.file(0)}
for n in {" n" * count}; do sleep 600 & pids="$pids $!"; done
exec 3<&- 4<&-
echo $pids
read line
kill $pids
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([*there.prefix, "sh", "-c", text], stdin=pipe, stdout=pipe, text=True) as shell:
        assert shell.stdout is not None
        yield list(map(int, shell.stdout.readline().split()))
        shell.communicate("\n")


def ps(there: Mounted, *arguments: str, **environ: str) -> list[dict[str, Any]]:
    """The rows of `--json`, by PID and GPU."""
    done = there.affinity("ps", "--json", *arguments, **{**PCI, **environ})
    assert done.returncode in (0, 1), done.stderr
    printed = schemas.load("ps", done.stdout)
    assert done.returncode == any(row["locality"] in ("partly", "remote", "not bound") for row in printed["processes"])
    found: list[dict[str, Any]] = printed["processes"]
    return found


def row(there: Mounted, child: Shell | RealChild, *arguments: str, **environ: str) -> dict[str, Any]:
    (found,) = [row for row in ps(there, *arguments, **environ) if row["pid"] == child.pid]
    return found


# ---------------------------------------------------------------- where a process is


def test_each_place_has_its_name(there: Mounted, start: Start, start_program: StartProgram) -> None:
    """A GPU on node 0, by its open device file; the memory is on node 0, the only one of this real machine."""
    places = {"local": {0}, "remote": {1}, "not bound": {0, 1}}
    children: dict[str, Any] = {name: start(cpus, 0) for name, cpus in places.items()}
    partly = children["partly"] = start_program({0})
    os.sched_setaffinity(partly.start_thread(), {1})
    rows = {row["pid"]: row for row in ps(there)}
    assert {name: rows[child.pid]["locality"] for name, child in children.items()} == {name: name for name in children}
    found = rows[partly.pid]
    assert (found["threads"], found["threads_inside"], found["cpus"], found["masks"]) == (2, 1, "0-1", {"0": 1, "1": 1})
    assert (found["pci_bus_id"], found["gpu"]["node"], found["evidence"]) == (GPU0, 0, "may use")
    assert found["evidence_reason"] == f"has {there.file(0)} open"
    assert (found["local_share"], found["policies"]) == (1.0, {"default": 2})
    assert found["command"][:1] == [sys.executable]
    assert rows[children["not bound"].pid]["remedy"] == f"affinity attach {children['not bound'].pid} --gpu {GPU0}"


def test_draw_shows_each_process_where_it_is(there: Mounted, start: Start) -> None:
    """Both use the GPU of node 0; one may run on node 1 alone, and one of another user is counted, then drawn."""
    near, far = start({0}, 0), start({1}, 0)
    theirs = start({0}, 0, prefix=("setpriv", "--reuid", str(OTHER_ID)))
    done = there.affinity("draw", "--ps", **PCI)
    assert done.returncode == 0, done.stderr
    node0, node1 = done.stdout.split("NUMA node 0")[1].split("NUMA node 1")
    assert (f"PID {near.pid} " in node0, f"PID {near.pid} " in node1) == (True, False)
    assert (f"PID {far.pid} " in node0, f"PID {far.pid} " in node1) == (True, True)
    assert "belongs here, with GPU 0" in node0
    assert "uses GPU 0 on node 0" in node1
    assert (done.stdout.count("✗ misplaced"), done.stdout.count("✓ local")) == (2, 1)
    assert f"PID {theirs.pid} " not in done.stdout
    assert "1 process of other users left out: --all-users draws them" in done.stdout
    assert f"PID {theirs.pid} " in there.affinity("draw", "--ps", "--all-users", **PCI).stdout


def test_the_remedy_helps(there: Mounted, start_program: StartProgram, tmp_path: Path) -> None:
    """The command that a row shows is run as it stands: the process is local, and known as bound by us until --undo."""
    runtime = {**PCI, "XDG_RUNTIME_DIR": str(tmp_path)}
    for child in (start_program({1}), start_program({0, 1})):
        child.start_thread()
        found = row(there, child, **runtime)
        assert (found["bound"], found["locality"] in ("remote", "not bound")) == (None, True)
        program, *words = found["remedy"].split()
        assert program == "affinity"
        done = there.affinity(*words, **runtime)
        assert done.returncode == 0, done.stderr
        found = row(there, child, **runtime)
        assert found["locality"] == "local", done.stdout
        assert (found["bound"]["strategy"], found["bound"]["cpus"]) == ("external", "0")
        assert abs(found["bound"]["since"] - time.time()) < 60
        assert there.affinity("attach", "--undo", str(child.pid), **runtime).returncode == 0
        assert row(there, child, **runtime)["bound"] is None


def test_a_thread_that_its_owner_pinned_has_another_remedy(there: Mounted, start_program: StartProgram) -> None:
    """It is not moved by `attach`, which would report that it was left alone."""
    child = start_program({0})
    thread = child.start_thread()
    os.sched_setaffinity(thread, {1})
    remedy = row(there, child)["remedy"]
    assert remedy.startswith("1 threads have a mask of their own, which `affinity attach` leaves alone")
    (command,) = re.findall(r"`(taskset.*?)`", remedy)
    subprocess.run(command.replace("TID", str(thread)).split(), check=True, capture_output=True)
    assert row(there, child)["locality"] == "local"


def test_memory_on_another_node_is_seen(there: Mounted, start: Start) -> None:
    """The process runs beside its GPU, on node 1, which has no memory here in truth."""
    child = start({1}, 1)
    found = row(there, child)
    assert (found["locality"], found["threads_inside"], found["local_share"]) == ("partly", 1, 0.0)
    assert found["reason"].startswith("100% of its memory is not on node 1 (memory of node 1 is not allowed here")


def test_files_of_gpus_on_both_nodes_decide_nothing(there: Mounted, start: Start) -> None:
    """And are no alarm."""
    child = start({1}, 0, 1)
    rows = [row for row in ps(there, "--pid", str(child.pid)) if row["pid"] == child.pid]
    assert [(row["pci_bus_id"], row["locality"]) for row in rows] == [(GPU0, "unknown"), (GPU1, "unknown")]


def test_the_environment_of_a_process_decides_between_files(there: Mounted, start: Start) -> None:
    """Where it names its GPU; in one row for each file that is open, and of a bind at the start too."""
    child = start({1}, 0, 1, prefix=("env", "CUDA_VISIBLE_DEVICES=1"))
    rows = [row for row in ps(there) if row["pid"] == child.pid]
    assert [row["placement"]["cpus"] for row in rows] == ["1", "1"]
    assert {row["threads_inside"] for row in rows} == {1}


def test_a_machine_without_a_gpu(tmp_path: Path) -> None:
    """The note has it, and how to go on; it is no error. Placeholders are no GPUs."""
    with mounted(tmp_path / "root", attrs.evolve(machine(), gpus=())) as there:
        for environ in ({}, {"AFFINITY_NODES": "0,1"}):
            done = there.affinity("ps", **environ)
            assert (done.returncode, done.stderr) == (0, "")
            assert "no process uses a GPU here\nnote: no GPU was found on this machine: `affinity strat" in done.stdout
        (found,) = ps(there, "--pid", str(os.getpid()))
        assert (found["locality"], found["reason"]) == ("unknown", "no GPU is known that it uses")


def test_the_policy_decides_the_placement(there: Mounted, start: Start) -> None:
    """Of the settings or of the option."""
    child = start({1}, 0)
    more = {"AFFINITY_POLICY": "explicit", "AFFINITY_CPUS": "1|0"}
    assert row(there, child, **more)["placement"]["cpus"] == "1"
    assert row(there, child, "--policy", "explicit", AFFINITY_CPUS="0-1|0")["locality"] == "local"
    done = there.affinity("ps", "--policy", "explicit", **PCI)
    assert (done.returncode, done.stdout) == (2, "")
    assert "AFFINITY_CPUS" in done.stderr


def test_a_worker_that_was_started_bound_is_known_as_such(there: Mounted) -> None:
    """By `affinity run`, from the record in its environment, and by a context, from its command line."""
    run = [*there.prefix, COMMAND, "run", "--gpu", GPU0, "--", "bash", "-c", f"exec 3<{there.file(0)}; echo; read"]
    text = f"""
import affinity, multiprocessing, sys
def work():
    sys.stdin = open("{there.file(0)}")
    print(flush=True)
    import time; time.sleep(60)
if __name__ == "__main__":
    worker = affinity.get_context("spawn", gpu="{GPU0}").Process(target=work)
    worker.start()
    input()
    worker.kill()
"""
    script = there.root / "program.py"
    script.write_text(text)
    spawn = [*there.prefix, sys.executable, str(script)]
    for command in (run, spawn):
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **PCI}
        ) as starter:
            assert starter.stdout is not None
            starter.stdout.readline()
            (found,) = [row for row in ps(there) if row["bound"]]
            assert (found["bound"]["gpus"], found["bound"]["cpus"], found["locality"]) == ([GPU0], "0", "local")
            assert found["bound"]["strategy"] in ("numactl", "inherit")
            assert 0 <= found["seconds_since_start"] < 60
            assert abs(time.time() - found["bound"]["since"]) < 60
            starter.communicate("\n")


# ---------------------------------------------------------------- which processes are shown


def test_processes_of_other_users_are_listed_on_request(there: Mounted, start: Start) -> None:
    """Otherwise they are counted."""
    mine, theirs = start({0}, 0), start({0}, 0, prefix=("setpriv", "--reuid", str(OTHER_ID)))
    assert [row["pid"] for row in ps(there)] == [mine.pid]
    assert {row["pid"]: row["user"] for row in ps(there, "--all-users")} == {mine.pid: "root", theirs.pid: OTHER}
    assert [row["pid"] for row in ps(there, "--pid", str(theirs.pid))] == [theirs.pid]
    done = there.affinity("ps", **PCI)
    assert "note: 1 process of other users left out: --all-users lists them" in done.stdout


def test_a_process_without_a_gpu_has_a_row_where_it_is_named(there: Mounted, start: Start) -> None:
    """And one that does not exist is an error."""
    children = [start({0}), start({1})]
    rows = ps(there, *(word for child in children for word in ("--pid", str(child.pid))))
    assert [(row["pid"], row["locality"], row["gpu"]) for row in rows] == [(c.pid, "unknown", None) for c in children]
    assert ps(there) == []
    done = there.affinity("ps", "--pid", "4194304", **PCI)
    assert (done.returncode, done.stderr) == (2, "affinity: --pid 4194304: there is no such process here\n")


def test_what_a_user_may_read_of_a_process(there: Mounted, start_program: StartProgram) -> None:
    """Without capabilities: all of a process of the same user; of an undumpable one and of another user's the masks."""
    plain = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--")
    own, undumpable = (start_program({0}, (*plain, "env", "SECRET=swordfish")) for _ in range(2))
    theirs = start_program({0}, as_user(OTHER_ID))
    undumpable.order("undumpable")
    children = own, undumpable, theirs
    for child in children:
        os.sched_setaffinity(child.start_thread(), {0})
    options = [word for child in children for word in ("--pid", str(child.pid))]
    rows = {row["pid"]: row for row in ps(there, *options)}
    assert [rows[child.pid]["locality"] for child in children] == ["local"] * 3
    done = affinity("ps", "--json", *options, prefix=(*there.prefix, *plain), **PCI)
    assert "swordfish" not in done.stdout
    printed = schemas.load("ps", done.stdout)
    rows = {row["pid"]: row for row in printed["processes"]}
    assert [rows[child.pid]["masks"] for child in children] == [{"0": 2}] * 3
    assert [rows[child.pid]["policies"] for child in children] == [{"default": 2}, {}, {}]
    assert [rows[child.pid]["resident"] is None for child in children] == [False, True, True]
    assert [rows[child.pid]["user"] for child in children] == ["root", "root", OTHER]
    assert rows[own.pid]["locality"] == "local"
    assert any("CAP_SYS_PTRACE" in note for note in printed["notes"])
    done = affinity("ps", "--json", "--pid", str(own.pid), prefix=(*there.prefix, *plain), **PCI)
    assert not any(
        "CAP_SYS_PTRACE" in note for note in schemas.load("ps", done.stdout)["notes"]
    )  # of others, not asked about


def test_no_call_that_changes_a_process_is_needed(there: Mounted, start: Start) -> None:
    """Nor any that Docker's seccomp profile refuses, for a process that is small."""
    children = [start({0}, 0), start({1}, 0)]
    refused = seccomp.prefix("EPERM", "sched_setaffinity", *seccomp.DOCKER)
    done = affinity("ps", "--json", prefix=(*there.prefix, *refused), **PCI)
    seen = {row["pid"]: row for row in schemas.load("ps", done.stdout)["processes"]}
    for found in ps(there):
        assert seen[found["pid"]] | {"seconds_since_start": 0} == found | {"seconds_since_start": 0}
    assert [seen[child.pid]["locality"] for child in children] == ["local", "remote"]
    assert [os.sched_getaffinity(child.pid) for child in children] == [{0}, {1}]


def test_a_large_process_is_sampled_and_counted_on_request(there: Mounted, start_program: StartProgram) -> None:
    """The margin of the estimate is printed."""
    child = start_program({0})
    child.touch(400 * MIB)
    found = row(there, child)
    assert found["resident_sampled"] >= 900
    assert 0.02 < found["local_share_error"] < 0.04
    assert row(there, child, "--full")["resident_sampled"] == 0


# ---------------------------------------------------------------- NVML


def nvml(there: Mounted, library: Path, directory: Path, *lines: str) -> dict[str, str]:
    """The environment in which the fake driver shows this machine, and these facts."""
    environ = driver.environment(library, driver.describe(there.machine, *lines), directory)
    return {**environ, "AFFINITY_DEVICES": ""}


def test_nvml_lists_what_uses_a_gpu(there: Mounted, start: Start, library: Path, tmp_path: Path) -> None:
    """Compute and graphics; a process that only has the device file open is not looked for."""
    uses, draws, idle = start({0}, 0, 1), start({1}, 0), start({1}, 0)
    environ = nvml(there, library, tmp_path, f"compute 0 {uses.pid}", f"graphics 1 {draws.pid}")
    rows = ps(there, **environ)
    assert {(r["pid"], r["pci_bus_id"], r["evidence"], r["evidence_reason"]) for r in rows} == {
        (uses.pid, GPU0, "uses", "NVML, compute"),
        (draws.pid, GPU1, "uses", "NVML, graphics"),
    }
    assert idle.pid not in {r["pid"] for r in rows}
    assert {r["locality"] for r in rows if r["pid"] == uses.pid} == {"local"}


def test_mig_devices_have_lists_of_their_own(there: Mounted, start: Start, library: Path, tmp_path: Path) -> None:
    """That of the whole GPU is refused to this user."""
    child = start({0}, 0)
    mig = [f"mig 0 MIG-aaaa{i}111-0000-0000-0000-000000000001" for i in (1, 2)]
    refused = f"error nvmlDeviceGetComputeRunningProcesses_v{{}} 99 {driver.NO_PERMISSION}"
    environ = nvml(there, library, tmp_path, *mig, f"compute-mig1 0 {child.pid}", refused.format(2), refused.format(3))
    found = row(there, child, **environ)
    assert (found["evidence"], found["evidence_reason"]) == ("uses", f"NVML, compute, {mig[1].split()[2]}")


@pytest.mark.parametrize("missing", ["", "error nvmlDeviceGetComputeRunningProcesses_v2 -1 13"], ids=["v2", "v3"])
def test_a_list_that_grows_is_asked_for_again(there: Mounted, library: Path, tmp_path: Path, missing: str) -> None:
    """Between the call for its length and the call for the list more came than the caller makes room for."""
    with sleeping(there, 9) as pids:
        late = [f"late 0 {pid}" for pid in pids[1:]]
        rows = ps(there, **nvml(there, library, tmp_path, f"compute 0 {pids[0]}", *late, missing))
    assert {(r["pid"], r["evidence"]) for r in rows} == {(pid, "uses") for pid in pids}
    calls = driver.calls(tmp_path)
    version = "v3" if missing else "v2"
    assert calls.count(f"nvmlDeviceGetComputeRunningProcesses_{version}") == 5  # 2, 2 and GPU 1's


def test_the_layout_of_two_drivers_is_not_misread(there: Mounted, library: Path, tmp_path: Path) -> None:
    """Version 3 of the list is wider there: version 2 is asked. Where it is missing, no number is taken for a PID."""
    with sleeping(there, 4) as pids:
        lines = ["wide 0 1", *(f"compute 0 {pid}" for pid in pids)]
        assert {r["evidence"] for r in ps(there, **nvml(there, library, tmp_path / "v2", *lines))} == {"uses"}
        lines.append("error nvmlDeviceGetComputeRunningProcesses_v2 -1 13")
        rows = ps(there, **nvml(there, library, tmp_path / "v3", *lines))
    found = {r["pid"]: r["evidence"] for r in rows}
    assert {found[pid] for pid in pids} <= {"uses", "may use"}
    assert {r["locality"] for r in rows if r["evidence"] == "unknown"} <= {"unknown"}
    assert {pid for pid, evidence in found.items() if evidence != "unknown"} == set(pids)


def test_a_refused_list_is_a_note_and_open_files_are_looked_at(
    there: Mounted, start: Start, library: Path, tmp_path: Path
) -> None:
    """Of that GPU alone."""
    child, other = start({0}, 0), start({1}, 1)
    refused = [f"error nvmlDeviceGetComputeRunningProcesses_{v} 0 {driver.NO_PERMISSION}" for v in ("v2", "v3")]
    environ = nvml(there, library, tmp_path, f"compute 1 {other.pid}", *refused)
    printed = schemas.load("ps", there.affinity("ps", "--json", **environ).stdout)
    assert {r["pid"]: r["evidence"] for r in printed["processes"]} == {child.pid: "may use", other.pid: "uses"}
    (note,) = [note for note in printed["notes"] if "NVML" in note]
    assert note.startswith(f"{GPU0}: NVML does not list its processes: ")


def test_pids_of_the_host_in_a_container(there: Mounted, start: Start, library: Path, tmp_path: Path) -> None:
    """A PID namespace, where NVML of old drivers lists the host's PIDs: the process of that number is another one."""
    outside = start({0}, 0)
    inside = f"exec 3<{there.file(0)} 4</dev/nvidiactl; taskset -cp 0 $$ >/dev/null; sleep 600 & exec 3<&- 4<&-; "
    command = f"{inside} {COMMAND} ps --json; status=$?; kill %1; exit $status"
    environ = nvml(there, library, tmp_path, f"compute 0 {outside.pid}", "compute 0 1")
    prefix = (*there.prefix, "unshare", "--pid", "--fork", "--mount-proc", "bash", "-c")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespace can be made here; continuous integration can")
    # /proc/driver is a part of the new /proc
    command = f"mount --bind {there.root}/proc/driver /proc/driver; {command}"
    done = subprocess.run([*prefix, command], capture_output=True, text=True, timeout=60, check=False, env=environ)
    rows = schemas.load("ps", done.stdout)["processes"]
    foreign = [r for r in rows if r["evidence"] == "unknown"]
    assert [(r["pid"], r["user"], r["locality"]) for r in foreign] == [
        (outside.pid, None, "unknown"),
        (1, None, "unknown"),
    ]
    (here,) = [r for r in rows if r["evidence"] != "unknown"]
    assert (here["command"], here["evidence"], here["locality"]) == (["sleep", "600"], "may use", "local")


# ---------------------------------------------------------------- KFD


def test_kfd_lists_what_uses_a_gpu_of_amd(tmp_path: Path) -> None:
    """By a queue, and no process whose file is merely open."""
    with mounted(tmp_path / "root", machine("amd")) as there, ExitStack() as ends:
        for node, (number, bus) in enumerate(((5001, 0x1B), (5002, 0x3B)), 1):
            directory = f"sys/class/kfd/kfd/topology/nodes/{node}"
            there.put(f"{directory}/gpu_id", f"{number}\n")
            there.put(f"{directory}/properties", f"location_id {bus << 8}\ndomain 0\n")
        children = [Shell.with_files(("/dev/kfd",), *there.prefix) for _ in range(2)]
        for child in children:
            ends.callback(child.end)
            os.sched_setaffinity(child.pid, {1})
            there.put(f"sys/class/kfd/kfd/proc/{child.pid}/vram_5001", "0\n")
        there.put(f"sys/class/kfd/kfd/proc/{children[0].pid}/queues/0/gpuid", "5001\n")
        (found,) = ps(there)
        assert (found["pid"], found["pci_bus_id"], found["evidence"]) == (children[0].pid, GPU0, "uses")
        assert (found["evidence_reason"], found["locality"]) == ("has a queue on it (KFD)", "remote")


# ---------------------------------------------------------------- forms of output


def test_metrics_are_those_of_the_table(there: Mounted, start: Start) -> None:
    """Read by the parser of the client library."""
    parser = pytest.importorskip("prometheus_client.parser")
    child = start({1}, 0)
    done = there.affinity("ps", "--prometheus", **PCI)
    assert done.returncode == 1
    samples = {}
    for family in parser.text_string_to_metric_families(done.stdout):
        for sample in family.samples:
            samples[sample.name, sample.labels.get("locality")] = sample
    assert samples["affinity_process_locality", "remote"].labels == {
        "pid": str(child.pid), "user": "root", "name": "sh", "gpu": GPU0, "node": "0", "locality": "remote",
    }  # fmt: skip
    assert (samples["affinity_processes", "remote"].value, samples["affinity_processes", "local"].value) == (1, 0)
    assert samples["affinity_process_threads", None].value == 1
    assert samples["affinity_process_threads_inside", None].value == 0
    assert samples["affinity_process_memory_bytes", None].labels["memory_node"] == "0"
    assert samples["affinity_process_memory_local_ratio", None].value == 1


def test_metrics_need_their_library(there: Mounted, tmp_path: Path) -> None:
    """The error names the extra."""
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('not here')\n")
    done = affinity("ps", "--prometheus", prefix=there.prefix, PYTHONPATH=str(tmp_path), **PCI)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("pip install 'numa-affinity[prometheus]'\n")


def test_two_forms_of_output_are_an_error() -> None:
    done = called("ps", "--json", "--watch")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("affinity: --watch, --json and --prometheus are three forms of output")


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_watch_redraws_until_it_is_interrupted(there: Mounted, start: Start, terminal: bool) -> None:
    """A process that moves is shown where it is now; the exit status is that of the last table."""
    child = start({1}, 0)
    command = [*there.prefix, COMMAND, "ps", "--watch", "--interval", "0.2"]
    ours, theirs = pty.openpty() if terminal else os.pipe()
    environ = {**os.environ, **PCI, "COLUMNS": "250", "TERM": "xterm"}
    watch = subprocess.Popen(command, stdin=theirs if terminal else None, stdout=theirs, env=environ)
    os.close(theirs)
    try:
        read_until(ours, rf"{child.pid}.* remote")
        os.sched_setaffinity(child.pid, {0})
        read_until(ours, rf"{child.pid}.* local")
        watch.send_signal(2)
        assert watch.wait(timeout=20) == 0
    finally:
        watch.kill()
        watch.wait()
        os.close(ours)


def read_until(descriptor: int, pattern: str) -> None:
    text, end = "", time.monotonic() + 30
    while not re.search(pattern, text):
        assert time.monotonic() < end, text
        text += os.read(descriptor, 1 << 16).decode(errors="replace")


def test_the_reference_page_has_every_key(there: Mounted, start: Start) -> None:
    """Of a row, and of the object around it."""
    child = start({0}, 0)
    section = (ROOT / "docs/reference/json.md").read_text().partition("## ps\n")[2].partition("\n## ")[0]
    printed = schemas.load("ps", there.affinity("ps", "--json", "--pid", str(child.pid), **PCI).stdout)
    missing = {key for key in (*printed, *printed["processes"][0]) if f"`{key}`" not in section}
    assert missing == set()
