"""`attach` on real foreign processes of this machine; what they have is read from their status files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import schemas
import seccomp
from server import Server, build
from test_process import NAMESPACE, choosing_pids, in_namespace

import affinity
from affinity import BindError, CpuSet, Settings, UsageError

pytestmark = [
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU: every mask is the same"),
]

ALL = CpuSet(os.sched_getaffinity(0))
FIRST, LAST = CpuSet([ALL.first()]), CpuSet([max(ALL)])

#: Two placeholder GPUs on node 0, each with a CPU of its own: what makes a difference on a machine of one node.
ENVIRON = {
    "AFFINITY_NODES": "0,0",
    "AFFINITY_DEVICES": "pci",
    "AFFINITY_POLICY": "explicit",
    "AFFINITY_CPUS": f"{FIRST}|{LAST}",
}
#: Another user without a right on processes; it may read files, since the interpreter may lie in a home.
UNPRIVILEGED = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--",
)  # fmt: skip
ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which takes root; CI is")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("server"))


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's runtime directory: the undo records of a test are its own."""
    path = tmp_path / "runtime"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


@pytest.fixture(params=["C", "Python"])
def server(request: pytest.FixtureRequest, program: Path) -> Iterator[Server]:
    """A server with 20 threads."""
    with Server(program if request.param == "C" else None) as running:
        running.threads(19)
        yield running


@pytest.fixture
def c_server(program: Path) -> Iterator[Server]:
    with Server(program) as running:
        yield running


def settings(**more: str) -> Settings:
    return Settings.from_environ({**ENVIRON, **more})


def command(
    *arguments: object, prefix: tuple[str, ...] = (), environ: Mapping[str, str] = ENVIRON
) -> subprocess.CompletedProcess[str]:
    """`affinity attach`."""
    argv = [*prefix, sys.executable, "-m", "affinity", "attach", *map(str, arguments)]
    env = {**os.environ, **environ}
    return subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False, env=env)


def test_every_thread_is_bound_and_new_ones_follow_and_undo_restores(server: Server) -> None:
    """A C program and a Python one, 20 threads each, by the public call."""
    report = affinity.attach(server.pid, gpu=1, settings=settings())
    assert (report.strategy, report.satisfied, report.degradations) == ("external", True, ())
    assert (server.mask(), len(server.masks())) == (LAST, 20)
    assert report.local_share == 1
    server.threads(1)
    assert (server.mask(), len(server.masks())) == (LAST, 21)
    assert report.undo().threads == dict.fromkeys(server.masks(), ALL)
    assert server.mask() == ALL
    with pytest.raises(UsageError, match="no undo record"):
        report.undo()


def test_attach_twice_keeps_the_first_state_for_undo(c_server: Server, runtime: Path) -> None:
    """From one GPU to the other, which the first mask is no limit for; then back to where it all began."""
    pinned = c_server.threads(1)[0]
    c_server.order("pin", FIRST)
    first = affinity.attach(c_server.pid, gpu=1, settings=settings())
    assert (first.already_bound, first.outcome.skipped) == (False, 1)
    again = affinity.attach(c_server.pid, gpu=1, settings=settings())
    assert (again.already_bound, again.satisfied) == (True, True)
    late = c_server.threads(1)[0]
    affinity.attach(c_server.pid, gpu=0, settings=settings())
    assert c_server.mask() == FIRST
    assert len(list((runtime / "affinity").iterdir())) == 1
    assert command("--undo", c_server.pid).returncode == 0
    assert c_server.masks() == {c_server.pid: ALL, pinned: FIRST, late: ALL}
    assert list((runtime / "affinity").iterdir()) == []


def test_threads_pinned_by_their_owner_are_left_alone_and_reported(c_server: Server) -> None:
    """One pinned before, and one pinned after, which an undo leaves too."""
    before = c_server.threads(1)[0]
    c_server.order("pin", FIRST)
    done = command(c_server.pid, "--gpu", "1")
    assert done.returncode == 0
    assert "1 threads have a CPU mask of their own and keep it" in done.stdout
    after = c_server.threads(1)[0]
    c_server.order("pin", FIRST)
    assert c_server.masks() == {c_server.pid: LAST, before: FIRST, after: FIRST}
    assert command("--undo", c_server.pid).returncode == 0
    assert c_server.masks() == {c_server.pid: ALL, before: FIRST, after: FIRST}


def test_a_chain_of_threads_is_caught(c_server: Server) -> None:
    """Each starts the next and ends: the last one is bound."""
    c_server.order("chain", 400)
    assert affinity.attach(c_server.pid, gpu=1, settings=settings()).satisfied
    time.sleep(0.6)
    assert c_server.mask() == LAST


def test_a_process_that_starts_threads_without_end_is_bound(c_server: Server) -> None:
    """New threads of bound ones are no reason to look again."""
    c_server.order("storm")
    began = time.monotonic()
    assert affinity.attach(c_server.pid, gpu=1, settings=settings()).satisfied
    assert time.monotonic() - began < 5
    assert set(c_server.masks().values()) == {LAST}


def test_a_process_that_takes_its_cpus_back_without_end_holds_nothing_up(c_server: Server) -> None:
    """Its main thread is bound, and the call ends."""
    c_server.order("resist")
    began = time.monotonic()
    report = affinity.attach(c_server.pid, gpu=1, settings=settings())
    assert time.monotonic() - began < 20
    assert c_server.masks()[c_server.pid] == LAST
    assert report.strategy == "external"


def test_a_dry_run_changes_nothing(c_server: Server, runtime: Path) -> None:
    """It prints what would be done; as JSON, the plan's keys."""
    done = command(c_server.pid, "--gpu", "1", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"process {c_server.pid}: CPUs {LAST} and memory preferred:0" in done.stdout
    assert "1 threads, 1 of them may run on other CPUs" in done.stdout
    (found,) = schemas.load("attach", command(c_server.pid, "--gpu", "1", "--dry-run", "--json").stdout)
    assert (found["pid"], found["cpus"], found["strategy"]) == (c_server.pid, str(LAST), "external")
    assert (c_server.mask(), list(runtime.iterdir())) == (ALL, [])


def test_several_processes_each_with_its_own_result(program: Path) -> None:
    """One that is not there costs its own row; the status is that of the worst."""
    with Server(program) as one, Server(program) as other:
        done = command(one.pid, 2**22 - 1, other.pid, "--gpu", "1", "--json")
        assert done.returncode == 2
        rows = schemas.load("attach", done.stdout)
        assert [row["pid"] for row in rows] == [one.pid, 2**22 - 1, other.pid]
        assert "is not here" in rows[1]["error"]
        assert (rows[2]["strategy"], rows[2]["launch_mode"]) == ("external", "attach")
        assert one.mask() == other.mask() == LAST


@pytest.mark.parametrize(
    ("environ", "mask"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0000:00:00.0"}, None),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}, LAST),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "x"}, None),
        ({"AFFINITY_BOUND": "gpus=phys:1;cpus=0;allowed=0;by=another"}, None),
        ({}, None),
    ],
)
def test_without_a_gpu_the_process_must_make_it_certain(
    program: Path, environ: dict[str, str], mask: CpuSet | None
) -> None:
    """Its launcher's rank among as many workers as GPUs; otherwise an error that names what to pass."""
    with Server(program, environ=environ) as running:
        done = command(running.pid)
        assert running.mask() == (mask or ALL)
        assert done.returncode == (0 if mask else 2)
        assert mask or "pass its GPU (--gpu, gpu=…) or a node (--node, node=…)" in done.stderr


def test_settings_of_the_process_do_not_count(program: Path) -> None:
    """A stranger's environment does not decide what its mask will be."""
    theirs = {**ENVIRON, "AFFINITY_CPUS": f"{LAST}|{FIRST}", "AFFINITY_AUTO": "0", "AFFINITY_STRATEGY": "noop"}
    with Server(program, environ=theirs) as running:
        assert affinity.attach(running.pid, gpu=1, settings=settings()).satisfied
        assert running.mask() == LAST


def test_a_process_started_by_us_goes_to_the_gpu_it_was_started_for(program: Path) -> None:
    """The handoff that `affinity run` leaves is a certain answer, and its mask no limit."""
    with Server(program, sys.executable, "-m", "affinity", "run", "--gpu", "1", "--", environ=ENVIRON) as running:
        assert running.mask() == LAST
        report = affinity.attach(running.pid, settings=settings())
        assert (report.satisfied, report.already_bound) == (True, True)
        affinity.attach(running.pid, gpu=0, settings=settings())
        assert running.mask() == FIRST


@pytest.mark.parametrize("required", ["best-effort", "required"])
def test_a_mask_is_a_limit_unless_asked(program: Path, required: str) -> None:
    """What taskset gave it; with --widen the cpuset alone."""
    with Server(program, "taskset", "-c", str(FIRST)) as running:
        environ = {**ENVIRON, "AFFINITY_ENFORCE": required}
        done = command(running.pid, "--gpu", "1", environ=environ)
        assert done.returncode == (3 if required == "required" else 0)
        assert f"its CPU mask is {FIRST}, its cpuset {ALL}" in done.stdout + done.stderr
        assert running.mask() == FIRST
        assert command(running.pid, "--gpu", "1", "--widen", environ=environ).returncode == 0
        assert running.mask() == LAST


@pytest.mark.parametrize(("pid", "message"), [(2**22 - 1, "is not here"), ("self", "use affinity.bind()")])
def test_what_is_no_other_process_is_refused(pid: int | str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        affinity.attach(os.getpid() if isinstance(pid, str) else pid, node=0)
    assert message in str(refused.value)


def test_a_kernel_thread_is_refused() -> None:
    """Setting kthreadd's mask would succeed."""
    if not Path("/proc/2/stat").is_file() or " (kthreadd) " not in Path("/proc/2/stat").read_text():
        pytest.skip("no kernel thread in this PID namespace")
    done = command(2, "--node", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "a kernel thread" in done.stderr


def test_a_threads_id_is_refused(c_server: Server) -> None:
    """/proc shows it as if it were a process."""
    tid = c_server.threads(1)[0]
    done = command(tid, "--node", "0")
    assert done.returncode == 2
    assert f"{tid} is a thread, not a process" in done.stderr


def test_an_ancestor_is_no_exception() -> None:
    """The shell that runs the command, which inherits to it what it has."""
    argv = [sys.executable, "-m", "affinity"]
    text = f"{' '.join(argv)} attach $$ --gpu 1 >&2; grep Cpus_allowed_list /proc/$$/status"
    done = subprocess.run(
        ["sh", "-c", text], capture_output=True, text=True, timeout=60, check=True, env={**os.environ, **ENVIRON}
    )
    assert done.stdout.split()[-1] == str(LAST)


def test_a_process_may_end_at_any_moment(program: Path, runtime: Path) -> None:
    """It is bound, not there any more, or ended meanwhile; no other error, and no record of it stays."""
    outcomes, seconds = set(), 0.0
    for share in (None, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):  # of the time of the first, which may end
        with Server(program) as running:
            running.threads(30)
            argv = [sys.executable, "-m", "affinity", "attach", str(running.pid), "--gpu", "1"]
            start = time.monotonic()
            attaching = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env={**os.environ, **ENVIRON})
            if share is None:
                attaching.wait()
                seconds = time.monotonic() - start
            else:
                time.sleep(share * seconds)
            os.kill(running.pid, signal.SIGKILL)
            running.running.wait()
            _, errors = attaching.communicate()
        outcomes.add(attaching.returncode)
        expected = {0: "", 2: "is not here", 3: "ended while it was bound"}[attaching.returncode]
        assert expected in errors
        assert "Traceback" not in errors
    assert outcomes >= {0, 2}
    with Server(program) as other:  # whose own record takes the place of those of ended processes
        affinity.attach(other.pid, gpu=1, settings=settings())
        (record,) = (runtime / "affinity").iterdir()
        assert record.name.startswith(f"{other.pid}-")


@ROOT_ONLY
def test_the_user_of_the_process_needs_no_right(program: Path, runtime: Path) -> None:
    """No capability: masks, pages and policies of one's own process."""
    with Server(program) as running:
        assert running.order("user", 65534) == "0"
        os.chown(runtime, 65534, 65534)
        done = command(running.pid, "--gpu", "1", "--json", prefix=UNPRIVILEGED)
        (row,) = schemas.load("attach", done.stdout)
        assert (done.returncode, running.mask()) == (0, LAST)
        assert (row["degradations"], row["satisfied"], row["observed"]["local_share"]) == ([], True, 1)


@ROOT_ONLY
@pytest.mark.parametrize("required", ["best-effort", "required"])
def test_another_users_process_is_refused_with_the_right_that_is_missing(
    program: Path, runtime: Path, required: str
) -> None:
    """Nothing is changed and no record stays."""
    os.chown(runtime, 65534, 65534)
    os.chmod(runtime.parent, 0o755)
    with Server(program) as running:
        done = command(
            running.pid, "--gpu", "1", prefix=UNPRIVILEGED, environ={**ENVIRON, "AFFINITY_ENFORCE": required}
        )
        assert running.mask() == ALL
        assert "as the user of the process or as root (CAP_SYS_" in done.stdout + done.stderr
        assert done.returncode == (3 if required == "required" else 0)
        assert list(runtime.glob("affinity/*")) == []


@ROOT_ONLY
def test_an_undumpable_process_of_the_same_user_gets_its_masks(program: Path, runtime: Path) -> None:
    """Its policies and its pages cannot be read without CAP_SYS_PTRACE: that is reported, not guessed."""
    os.chown(runtime, 65534, 65534)
    with Server(program) as running:
        running.order("user", 65534)
        assert running.order("undumpable") == "0"
        (row,) = schemas.load("attach", command(running.pid, "--gpu", "1", "--json", prefix=UNPRIVILEGED).stdout)
        assert running.mask() == LAST
        assert row["satisfied"] is False
        assert {d["errno"] for d in row["degradations"]} == {"EACCES", "EPERM"} or row["degradations"]
        assert any("CAP_SYS_PTRACE" in d["remedy"] for d in row["degradations"])


def test_a_policy_of_its_own_is_reported_and_required_refuses(c_server: Server) -> None:
    """On node 0, the only one here, preferred:0 is where memory should go: nothing is wrong with it."""
    assert c_server.order("policy", 1, 0) == "0"
    report = affinity.attach(c_server.pid, gpu=1, settings=settings(AFFINITY_ENFORCE="required"))
    assert (report.satisfied, report.degradations) == (True, ())


def test_a_bind_policy_cannot_be_given_from_outside(c_server: Server) -> None:
    """The next weaker placement is in force and it is reported; under `required` nothing is."""
    report = affinity.attach(c_server.pid, gpu=1, settings=settings(AFFINITY_MEMORY="bind"))
    assert not report.satisfied
    assert any("affinity run" in str(d) for d in report.degradations)
    assert c_server.mask() == LAST
    report.undo()
    with pytest.raises(BindError, match="cannot be set"):
        affinity.attach(c_server.pid, gpu=1, settings=settings(AFFINITY_MEMORY="bind", AFFINITY_ENFORCE="required"))
    assert c_server.mask() == ALL


DOCKER = ("mbind", "set_mempolicy", "get_mempolicy", "migrate_pages", "move_pages")


def test_under_dockers_seccomp_profile_the_masks_are_set(c_server: Server) -> None:
    """Where pages lie is read from /proc; that they cannot be moved shows only where some are elsewhere."""
    prefix = seccomp.prefix("EPERM", *DOCKER)
    (row,) = schemas.load("attach", command(c_server.pid, "--gpu", "1", "--json", prefix=prefix).stdout)
    assert c_server.mask() == LAST
    assert row["observed"]["local_share"] == 1


def test_without_sched_setaffinity_nothing_is_changed(c_server: Server, runtime: Path) -> None:
    """The errno is reported, and the record is gone."""
    for required, status in (("best-effort", 0), ("required", 3)):
        prefix = seccomp.prefix("EPERM", "sched_setaffinity")
        done = command(c_server.pid, "--gpu", "1", prefix=prefix, environ={**ENVIRON, "AFFINITY_ENFORCE": required})
        assert "[EPERM]" in done.stdout + done.stderr
        assert (done.returncode, c_server.mask(), list(runtime.glob("affinity/*"))) == (status, ALL, [])


def test_a_kernel_without_pidfds_is_served_by_the_start_time(c_server: Server) -> None:
    """Before Linux 5.3, or under a filter."""
    done = command(c_server.pid, "--gpu", "1", prefix=seccomp.prefix("ENOSYS", "pidfd_open"))
    assert (done.returncode, c_server.mask()) == (0, LAST)


def test_a_pid_given_to_another_process_is_not_undone() -> None:
    """The record is by start time: the new process of that PID has none."""
    text = f"""
import os, subprocess, sys, tempfile, time
import affinity
from affinity import CpuSet
os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp()
def start(pid):
    with open("/proc/sys/kernel/ns_last_pid", "w") as last: last.write(str(pid - 1))
    child = subprocess.Popen(["sleep", "60"])
    assert child.pid == pid
    return child
first = start(500)
report = affinity.attach(500, gpu=1, settings=affinity.Settings.from_environ({ENVIRON!r}))
print(sorted(os.sched_getaffinity(500)))
first.kill(); first.wait()
time.sleep(2 / os.sysconf("SC_CLK_TCK"))
second = start(500)
os.sched_setaffinity(500, {set(LAST)!r})
try: report.undo()
except affinity.UsageError as refused: print("no undo record" in str(refused))
print(sorted(os.sched_getaffinity(500)))
second.kill()
"""
    assert choosing_pids(text, *NAMESPACE) == [str(list(LAST)), "True", str(list(LAST))]


def test_in_a_pid_namespace_only_what_is_there_is_seen(c_server: Server) -> None:
    """The PID of a process outside is not there; under a foreign /proc nothing is attached to."""
    text = f"""
import affinity
try: affinity.attach({c_server.pid}, node=0)
except affinity.AffinityError as refused: print(str(refused).split(":")[0])
"""
    assert in_namespace(text, *NAMESPACE) == [f"process {c_server.pid} is not here; expected one that runs"]
    assert in_namespace(text, *NAMESPACE[:-1]) == ["/proc"]
    assert c_server.mask() == ALL
