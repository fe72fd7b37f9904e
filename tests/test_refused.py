"""Where the kernel refuses: seccomp filters as containers have them, and what the ladder makes of each.

Every case is a process under a real filter. Docker's default profile refuses the six memory policy calls with EPERM
without CAP_SYS_NICE, an older kernel or a sandbox answers ENOSYS.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import seccomp

import affinity
from affinity.kernel import MemoryMode, MemoryPolicy

CALLS = ("set_mempolicy", "get_mempolicy", "mbind", "migrate_pages", "move_pages")
ERRNOS = ("EPERM", "ENOSYS")
REMEDY = {"EPERM": "--cap-add SYS_NICE", "ENOSYS": "CONFIG_NUMA"}
ALL = str(affinity.CpuSet(os.sched_getaffinity(0)))
ONE = str(min(os.sched_getaffinity(0)))

pytestmark = [
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a narrower mask needs two CPUs"),
    pytest.mark.skipif(platform.machine() not in seccomp.NUMBERS, reason="the filter's numbers are not known here"),
]

#: One GPU-less worker for CPU ONE and the memory of node 0.
SETTINGS = f"""
import affinity, json, os
from affinity.kernel.linux import THIS_PROCESS

def to(*strategies, **more):
    return affinity.Settings(strategies=strategies, policy="explicit", cpus=(affinity.CpuSet([{ONE}]),), nodes=(0,),
                             devices=("pci",), **more)

def now():
    try: policy = str(THIS_PROCESS.get_mempolicy())
    except OSError as refused: policy = refused.strerror
    record = dict(part.split("=") for part in os.environ.get("AFFINITY_BOUND", "").split(";") if part)
    return [str(THIS_PROCESS.get_affinity()), policy, [record.get(k) for k in ("cpus", "allowed")] if record else None]
"""

#: Bind in a fork for each strategy; what the report states, and what is in force afterwards.
BIND = (
    SETTINGS
    + """
import sys
for strategy, required, memory in json.loads(sys.argv[1]):
    if os.fork() == 0:
        from affinity.kernel import MemoryMode
        settings = to(*strategy.split(), required=required, memory=MemoryMode(memory))
        try:
            r = affinity.bind(settings=settings)
            printed = [[d.action, d.errno, d.error, d.remedy] for d in r.degradations]
            reported = dict(error=None, strategy=r.strategy, satisfied=r.satisfied, printed=printed, now=now())
            r.undo()
            reported["undone"] = now()
        except affinity.BindError as refused:
            reported = dict(error=str(refused), now=now())
        print(json.dumps(reported), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""
)


def bind(python, number: str, calls: tuple[str, ...], *cases: tuple[str, bool, str]) -> list[dict]:  # type: ignore
    """What came of each case (strategies, required, memory) under the filter; stderr has libnuma's line and the log."""
    done = python(BIND, json.dumps(cases), prefix=seccomp.prefix(number, *calls))
    other = {line for line in done.stderr.splitlines() if not line.startswith("affinity: ")}
    assert other <= {f"set_mempolicy: {os.strerror(getattr(errno, number))}"}
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_filter_refuses_what_it_states_and_nothing_else(python) -> None:  # type: ignore[no-untyped-def]
    """Each call alone fails with its errno, and no other does."""
    text = textwrap.dedent(
        f"""
        import ctypes, errno, os, platform, sys
        sys.path.insert(0, {str(Path(seccomp.__file__).parent)!r})
        import seccomp
        libc = ctypes.CDLL(None, use_errno=True)
        numbers = seccomp.NUMBERS[platform.machine()]
        def refused(number):  # no call succeeds with such arguments
            answer = libc.syscall(*[ctypes.c_long(n) for n in (number, -1, -1, 0, 0, 0, -1)])
            return answer < 0 and ctypes.get_errno() == errno.EXFULL
        for name in ("", *numbers):
            if os.fork() == 0:
                if name: seccomp.refuse(errno.EXFULL, [name])
                print(name, *(n for n in numbers if refused(numbers[n])), flush=True); os._exit(0)
            os.wait()
        """
    )
    names = list(seccomp.NUMBERS[platform.machine()])
    assert python(text).stdout.splitlines() == ["", *(f"{name} {name}" for name in names)]


@pytest.mark.parametrize("number", ERRNOS)
@pytest.mark.parametrize("calls", [("set_mempolicy",), seccomp.DOCKER], ids=["set_mempolicy", "docker"])
def test_without_set_mempolicy_the_cpus_are_bound_and_the_memory_is_reported(python, number: str, calls) -> None:  # type: ignore
    """Each strategy goes down to CPUs only; the report has call, errno and remedy; undo leads back."""
    for reported, strategy in zip(
        bind(python, number, calls, *((s, False, "preferred") for s in ("libnuma", "inherit", "legacy"))),
        ("libnuma", "inherit", "legacy"),
        strict=True,
    ):
        assert (reported["strategy"], reported["satisfied"]) == (strategy, False)
        assert reported["now"] == [ONE, "default", [ONE, ALL]]
        assert reported["undone"] == [ALL, "default", None]
        ((tried, code, printed, remedy),) = reported["printed"]
        assert tried == f"{strategy}: CPUs {ONE} and memory preferred:0"
        if strategy == "libnuma" and number == "ENOSYS" and "get_mempolicy" in calls:
            assert "numa_available() is -1" in printed
            assert "seccomp profile that allows get_mempolicy" in printed
        else:
            assert (code, printed) == (number, f"{os.strerror(getattr(errno, number))} in set_mempolicy")
            assert REMEDY[number] in remedy


@pytest.mark.parametrize("number", ERRNOS)
def test_every_step_down_is_reported_in_order(python, number: str) -> None:  # type: ignore[no-untyped-def]
    """bind, preferred, each by each strategy, then CPUs only."""
    (reported,) = bind(python, number, seccomp.DOCKER, ("libnuma inherit", False, "bind"))
    assert [tried for tried, *_ in reported["printed"]] == [
        f"{strategy}: CPUs {ONE} and memory {memory}:0"
        for memory in ("bind", "preferred")
        for strategy in ("libnuma", "inherit")
    ]
    assert reported["now"][:2] == [ONE, "default"]


@pytest.mark.parametrize("number", ERRNOS)
@pytest.mark.parametrize("call", [c for c in CALLS if c != "set_mempolicy"])
def test_a_call_that_is_not_needed_may_be_refused(python, number: str, call: str) -> None:  # type: ignore[no-untyped-def]
    """Nothing is dropped: where get_mempolicy is refused, numa_maps shows the policy, also under `required`."""
    strategies = ["inherit", "legacy", "libnuma inherit"]
    memories = ("preferred", "bind", "local") if call == "get_mempolicy" else ("preferred",)
    for reported in bind(python, number, (call,), *((s, True, m) for s in strategies for m in memories)):
        assert reported["error"] is None, reported
        assert reported["satisfied"]
        if (call, number) != ("get_mempolicy", "ENOSYS"):  # there libnuma finds no NUMA, and the next strategy acts
            assert reported["printed"] == []
        assert reported["undone"] == [ALL, "default", None]


@pytest.mark.parametrize("number", ERRNOS)
@pytest.mark.parametrize(
    "calls", [("sched_setaffinity",), ("sched_setaffinity", *seccomp.DOCKER)], ids=["alone", "docker"]
)
def test_without_sched_setaffinity_nothing_is_half_bound(python, number: str, calls) -> None:  # type: ignore
    """Memory without CPUs is no binding: the process is as it was, and each step states why."""
    strategies = ("libnuma", "inherit", "legacy")
    for reported, strategy in zip(
        bind(python, number, calls, *((s, False, "preferred") for s in strategies)), strategies, strict=True
    ):
        assert reported["now"] == [ALL, "default", None]
        assert not reported["satisfied"]
        assert [tried for tried, *_ in reported["printed"]] == [
            f"{strategy}: CPUs {ONE} and memory preferred:0",
            f"{strategy}: CPUs {ONE}",
        ]
        for _, code, printed, remedy in reported["printed"]:
            assert (code, printed) == (number, f"{os.strerror(getattr(errno, number))} in sched_setaffinity")
            assert REMEDY[number] in remedy


@pytest.mark.parametrize("number", ERRNOS)
@pytest.mark.parametrize(
    "calls", [("set_mempolicy",), seccomp.DOCKER, ("sched_setaffinity",)], ids=lambda c: f"{c[0]}+{len(c) - 1}"
)
def test_required_is_an_error_and_leaves_the_process_as_it_was(python, number: str, calls) -> None:  # type: ignore
    """With the errno in its words; also for the automatic choice."""
    cases = [(s, True, "preferred") for s in ("libnuma", "inherit", "legacy", "libnuma inherit")]
    for reported in bind(python, number, calls, *cases):
        assert reported["error"].startswith("required, but refused: ")
        assert number in reported["error"] or "numa_available() is -1" in reported["error"]
        assert reported["now"] == [ALL, "default", None]


@pytest.mark.parametrize(("fails", "comes"), [("", "result"), ("yes", "'its own'")])
def test_a_tasks_result_outlives_a_binding_that_cannot_be_given_back(python, fails: str, comes: str) -> None:  # type: ignore
    """The call is refused from within the task on: its result, or its own error, comes through, with a warning."""
    text = SETTINGS + textwrap.dedent(
        """
        import errno, sys, warnings
        sys.path.insert(0, sys.argv[1])
        import seccomp
        from affinity.integrations.ray import bound
        @bound(settings=to())
        def task():
            seccomp.refuse(errno.EPERM, ["sched_setaffinity"])
            if sys.argv[2]: raise KeyError("its own")
            return "result"
        with warnings.catch_warnings(record=True) as reported:
            warnings.simplefilter("always")
            try: print(task())
            except KeyError as error: print(error)
        print([w.category.__name__ for w in reported], "may start bound: undo: CPUs" in str(reported[0].message))
        """
    )
    done = python(text, str(Path(seccomp.__file__).parent), fails)
    assert done.stdout.splitlines() == [comes, "['RuntimeWarning'] True"]


def test_what_is_already_in_force_needs_no_call(python) -> None:  # type: ignore[no-untyped-def]
    """A worker born under numactl, in a container that refuses everything, finds itself bound."""
    text = (
        SETTINGS + "r = affinity.bind(settings=to(required=True)); print(r.already_bound, r.satisfied, r.degradations)"
    )
    sandbox = seccomp.prefix("EPERM", "sched_setaffinity", *seccomp.DOCKER)
    born = ("numactl", f"--physcpubind={ONE}", "--preferred=0", "--", *sandbox)
    assert python(text, prefix=born).stdout == "True True ()\n"


def test_where_the_policy_cannot_be_read_at_all_required_changes_nothing() -> None:
    """Neither by the call nor in numa_maps, as in a sandbox with a kernel of its own: it could not be undone."""
    from affinity.testing import FakeHost

    fake = FakeHost("pack:2 numa:1 core:4 gpu:1")
    fake.kernel.refuse("get_mempolicy", errno.ENOSYS)
    with pytest.raises(affinity.BindError, match=r"required, but no memory policy could be verified.*\[ENOSYS\]"):
        affinity.bind(gpu=0, host=fake.host, settings=affinity.Settings(required=True))
    assert fake.kernel.changes == ()
    report = affinity.bind(gpu=0, host=fake.host)
    assert not report.satisfied
    assert [d.action for d in report.degradations] == ["read back the memory policy"]
    assert fake.kernel.policies[report.observed.caller] == MemoryPolicy(MemoryMode.PREFERRED, affinity.NodeSet([0]))


# ---------------------------------------------------------------- spawning

#: A worker started inside `spawning()`; it binds itself and shows, and so does the parent.
SPAWN = (
    SETTINGS
    + """
import multiprocessing, sys

def work():
    born = now()[:2]
    r = affinity.bind(gpu=0, settings=to())
    print(json.dumps(["worker", born, now()[:2], [str(d) for d in r.degradations]]), flush=True)

if __name__ == "__main__":
    strategies, required = json.loads(sys.argv[1])
    process = multiprocessing.get_context("spawn").Process(target=work)
    entered = False
    try:
        with affinity.spawning(gpu=0, settings=to(*strategies, required=required)) as planned:
            entered = True
            process.start()
        process.join(30)
        reported = [process.exitcode, planned.selection.strategy, planned.selection.reason]
    except affinity.BindError as refused:
        reported = [entered, "", str(refused)]
    print(json.dumps(["parent", *reported, now()]), flush=True)
"""
)


def spawned(
    folder: Path, number: str, calls: tuple[str, ...], *strategies: str, required: bool = False
) -> dict[str, list]:  # type: ignore
    """What worker and parent printed under the filter."""
    script = folder / "server.py"
    script.write_text(SPAWN)
    command = [*seccomp.prefix(number, *calls), sys.executable, str(script), json.dumps([strategies, required])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return {that: rest for that, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("strategy", ["numactl", "inherit"])
@pytest.mark.parametrize(
    ("number", "calls"),
    [("EPERM", ("set_mempolicy",)), ("EPERM", seccomp.DOCKER), ("ENOSYS", seccomp.DOCKER)],
    ids=["set_mempolicy", "docker", "docker-ENOSYS"],
)
def test_a_worker_is_started_with_its_cpus_and_the_memory_is_reported(
    tmp_path: Path, number: str, strategy: str, calls
) -> None:  # type: ignore
    """Under a filter on set_mempolicy, numactl in front of a worker ends it before its first line (sglang issue 27368):
    here it lives, with the CPUs that could be had, the parent is as it was, and both report the degradations."""
    reported = spawned(tmp_path, number, calls, strategy)
    exitcode, used, reason, parent = reported["parent"]
    assert (exitcode, used, parent) == (0, strategy, [ALL, "default", None])
    born, after, printed = reported["worker"]
    assert born == after == [ONE, "default"]
    assert f"degraded: {strategy}: CPUs {ONE} and memory preferred:0" in reason
    assert f"[{number}]" in reason or "does not support NUMA policy" in reason
    assert any(f"[{number}]" in words and REMEDY[number] in words for words in printed)


@pytest.mark.parametrize("number", ERRNOS)
def test_automatic_choice_gives_the_worker_what_can_be_had(tmp_path: Path, number: str) -> None:
    """Where get_mempolicy alone is refused, everything: numactl may refuse to act, inherit does not."""
    reported = spawned(tmp_path, number, ("get_mempolicy",))
    born, after, printed = reported["worker"]
    assert born == after == [ONE, "preferred:0"]
    assert printed == []
    assert reported["parent"][0] == 0


def test_a_worker_that_cannot_be_bound_at_all_is_started_as_it_is(tmp_path: Path) -> None:
    """sched_setaffinity refused too: nothing is bound, the worker lives, both show."""
    reported = spawned(tmp_path, "EPERM", ("sched_setaffinity", *seccomp.DOCKER))
    exitcode, used, reason, parent = reported["parent"]
    assert (exitcode, used, parent) == (0, "noop", [ALL, "default", None])
    assert reason.count("degraded: ") == 3  # numactl's two errors; the one that `inherit` met twice
    assert "degraded: inherit: CPUs 0 and memory preferred:0; inherit: CPUs 0: " in reason
    born, after, printed = reported["worker"]
    assert born == after == [ALL, "default"]
    assert len(printed) == 4
    assert all("[EPERM]" in words for words in printed)


@pytest.mark.parametrize(
    ("number", "strategies"), [("EPERM", ("numactl",)), ("EPERM", ()), ("ENOSYS", ("inherit",))], ids=str
)
def test_required_is_an_error_before_a_worker_is_started(
    tmp_path: Path, number: str, strategies: tuple[str, ...]
) -> None:
    """The block is not entered; the parent is as it was."""
    reported = spawned(tmp_path, number, ("set_mempolicy",), *strategies, required=True)
    entered, _, error, parent = reported["parent"]
    assert not entered
    assert "worker" not in reported
    assert f"[{number}]" in error
    assert REMEDY[number] in error
    assert parent == [ALL, "default", None]


# ---------------------------------------------------------------- affinity run

SHOW = "import os; from affinity.kernel.linux import THIS_PROCESS as k; print(k.get_affinity(), k.get_mempolicy())"


def run(number: str, *calls: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`affinity run --node 0` under the filter."""
    program = Path(sys.executable).with_name("affinity")
    command = [*seccomp.prefix(number, *calls), str(program), "run", "--node", "0", "--", sys.executable, "-c", SHOW]
    prefix = ("taskset", "-c", ONE) if "sched_setaffinity" not in calls else ()
    return subprocess.run(
        [*prefix, *command], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environ}
    )


@pytest.mark.parametrize("number", ERRNOS)
@pytest.mark.parametrize("calls", [("set_mempolicy",), seccomp.DOCKER], ids=["set_mempolicy", "docker"])
def test_run_starts_the_command_and_states_what_was_dropped(number: str, calls: tuple[str, ...]) -> None:
    """A line for each step on stderr, with errno and remedy; the command runs."""
    done = run(number, *calls)
    assert (done.returncode, done.stdout) == (0, f"{ONE} default\n")
    degradations = [line for line in done.stderr.splitlines() if line.startswith("affinity: degraded: ")]
    assert [re.search(r"degraded: (\w+): CPUs", line)[1] for line in degradations][:2] == ["numactl", "inherit"]  # type: ignore[index]
    assert all(f"[{number}]" in line or "does not support NUMA policy" in line for line in degradations)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "calls"), [("EPERM", ("set_mempolicy",)), ("ENOSYS", ("sched_setaffinity", "set_mempolicy"))], ids=str
)
def test_run_under_required_starts_nothing(number: str, calls: tuple[str, ...]) -> None:
    """Exit status 3 and one message."""
    done = run(number, *calls, AFFINITY_ENFORCE="required")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1].startswith("affinity: required, but refused: ")
    assert f"[{number}]" in done.stderr


def test_run_needs_no_call_for_a_mask_that_is_right() -> None:
    """sched_setaffinity refused, every CPU of the node already allowed: the memory is still bound."""
    done = run("EPERM", "sched_setaffinity")
    assert (done.returncode, done.stdout) == (0, f"{ALL} preferred:0\n")
