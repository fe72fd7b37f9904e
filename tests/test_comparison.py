"""`affinity bench`: a command unbound, bound and bound elsewhere, by the ratio within each round."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import schemas
from commands import affinity, called

from affinity import Settings, UsageError
from affinity.benchmark.comparison import (
    BOUND,
    ELSEWHERE,
    UNBOUND,
    Run,
    Variant,
    compare,
    number_in,
    run_command,
    variants,
)
from affinity.testing import FakeHost, machines

HERE = Variant(BOUND, (), {}, "here")


def environments(name: str, **given: object) -> dict[str, dict[str, str | None]]:
    ways = variants(machines.host(name), Settings(), **given)  # type: ignore[arg-type]
    return {way.name: dict(way.environ) for way in ways}


def options(name: str, **given: object) -> dict[str, str]:
    """What each command is started by, after the interpreter."""
    ways = variants(machines.host(name), Settings(), **given)  # type: ignore[arg-type]
    return {way.name: " ".join(way.prefix[1:]) for way in ways}


def test_workers_that_bind_themselves_are_sent_elsewhere_by_a_setting() -> None:
    """To the farthest node of each GPU; nothing stands before the command."""
    assert environments("dgx-h100") == {
        UNBOUND: {"AFFINITY_STRATEGY": "noop"},
        BOUND: {"AFFINITY_AUTO": None},
        ELSEWHERE: {"AFFINITY_AUTO": None, "AFFINITY_NODES": "1,1,1,1,0,0,0,0"},
    }
    assert set(options("dgx-h100").values()) == {""}


def test_a_command_for_one_gpu_or_node_is_bound_itself() -> None:
    run = "-m affinity run"
    assert options("dgx-h100", gpu="4") == {UNBOUND: "", BOUND: f"{run} --gpu 4 --", ELSEWHERE: f"{run} --node 0 --"}
    assert options("dgx-h100", node=0) == {UNBOUND: "", BOUND: f"{run} --node 0 --", ELSEWHERE: f"{run} --node 1 --"}
    assert environments("dgx-h100", node=0)[ELSEWHERE] == {"AFFINITY_AUTO": "0"}


def test_elsewhere_is_the_greatest_distance() -> None:
    """Of the four nodes of a package, and the other package's."""
    assert options("epyc-nps4-descending", node=1)[ELSEWHERE] == "-m affinity run --node 4 --"


@pytest.mark.parametrize(("machine", "reason"), [
    ("vm-one-node", r"CPUs of one node are allowed here \(0\)"),
    ("container-without-gpu-node", r"CPUs of one node are allowed here \(0\)"),
    ("vm-two-nodes", "the node of no visible GPU is known; expected --node"),
    ("knl-snc4-flat", "no GPU is visible; expected --node"),
])  # fmt: skip
def test_where_there_is_nothing_to_compare_is_an_error(machine: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"^nothing to compare: {reason}"):
        variants(machines.host(machine), Settings())


def test_each_round_has_each_run_and_begins_with_another() -> None:
    ways = variants(machines.host("dgx-h100"), Settings())
    order: list[str] = []

    def run(way: Variant) -> Run:
        order.append(way.name)
        return Run(1.0, 0.0)

    reported: list[str] = []
    compare(ways, 3, run, higher_is_better=True, progress=reported.append)
    assert order == [UNBOUND, BOUND, ELSEWHERE, BOUND, ELSEWHERE, UNBOUND, ELSEWHERE, UNBOUND, BOUND]
    assert reported[0] == "round 1 of 3, unbound (as a process is started here)"
    assert reported[-1] == "round 3 of 3, bound (node 0-1)"


@pytest.mark.parametrize(("bound", "higher_is_better", "verdict"), [
    ((110, 55, 220), True, "bound is 1.1 x (1.1 to 1.1) unbound: bind"),
    ((110, 55, 220), False, "bound is 1.1 x (1.1 to 1.1) unbound: do not bind"),
    ((90, 48, 170), False, "bound is 0.9 x (0.85 to 0.96) unbound: bind"),
    ((101, 49, 204), True, "bound is 1.01 x (0.98 to 1.02) unbound: these runs show no difference"),
])  # fmt: skip
def test_the_verdict_is_of_the_ratios_within_rounds(
    bound: tuple[int, ...], higher_is_better: bool, verdict: str
) -> None:
    """The rounds differ by a factor of four; what is bound, by little."""
    numbers = {UNBOUND: iter((100, 50, 200)), BOUND: iter(bound), ELSEWHERE: iter((80, 40, 160))}
    ways = variants(machines.host("dgx-h100"), Settings())
    found = compare(ways, 3, lambda way: Run(next(numbers[way.name]), 0.5), higher_is_better=higher_is_better,
                    progress=lambda _: None)  # fmt: skip
    assert found.verdict == verdict
    assert str(found.ratio(ELSEWHERE)) == "0.8 x (0.8 to 0.8)"
    assert found.others == 0.5


@pytest.mark.parametrize(("output", "pattern", "number"), [
    ("throughput: 1,234.5 tok/s\n", r"throughput: ([\d.,]+)", 1234.5),
    ("1 2\n3e-2\n", r"\S+", 0.03),
])  # fmt: skip
def test_the_number_is_the_last_that_is_found(output: str, pattern: str, number: float) -> None:
    assert number_in(output, re.compile(pattern)) == number


@pytest.mark.parametrize(
    ("pattern", "found"), [("zzz", "found nothing"), ("th", "found 'th'"), ("x: (-?[0-9]+)", "found '0'")]
)
def test_output_without_a_number_is_an_error_with_its_end(pattern: str, found: str) -> None:
    with pytest.raises(UsageError, match=rf"--metric .* {found}; expected a number above 0.*\nbegun\nthroughput x: 0$"):
        number_in("begun\nthroughput x: 0", re.compile(pattern))


def test_a_command_is_run_with_its_variables_unset_and_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFFINITY_AUTO", "0")
    way = Variant(ELSEWHERE, (), {"AFFINITY_AUTO": None, "AFFINITY_NODES": "7"}, "")
    assert run_command('echo "n=${AFFINITY_AUTO-1}$AFFINITY_NODES"', re.compile(r"n=(\d+)"), way).value == 17


def test_a_command_is_bound_by_what_stands_before_it() -> None:
    (way,) = (Variant(w.name, (*w.prefix[:-2], "0", "--"), w.environ, "") for w in
              variants(machines.host("dgx-h100"), Settings(), node=1) if w.name == BOUND)  # fmt: skip
    line = "grep -c 'prefer[^ ]*:0 ' /proc/self/numa_maps"
    assert run_command(line, re.compile(r"\d+"), way).value > 0


def test_without_a_metric_the_number_is_the_time() -> None:
    assert 0.2 <= run_command("sleep 0.2", None, HERE).value < 10


def test_a_command_that_fails_is_an_error_with_its_output() -> None:
    with pytest.raises(UsageError, match=r"^the command ended with status 3 when bound:\nno such model$"):
        run_command("echo no such model >&2; exit 3", None, HERE)


def test_other_load_is_noticed() -> None:
    """A process that is none of the command's."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            assert run_command("sleep 1", None, HERE).others > 0.3
        finally:
            busy.kill()


def test_the_command_prints_a_table_a_verdict_and_json() -> None:
    """On a simulated machine, of which the variables are; what is run, is run here."""
    line = "test ${AFFINITY_STRATEGY-auto} = noop && echo 2 || echo 3"
    with FakeHost("dgx-h100").installed():
        done = called("bench", "--command", line, "--metric", "[0-9]+", "--rounds", "2")
        printed = schemas.load("bench", called("bench", "--command", line, "--metric", "[0-9]+", "--json").stdout)
    rows = [re.split("  +", row) for row in done.stdout.splitlines()]
    assert rows[1:5] == [
        ["run", "where", "median", "least", "greatest", "to unbound"],
        [UNBOUND, "as a process is started here", "2", "2", "2", "1 x (1 to 1)"],
        [BOUND, "node 0-1", "3", "3", "3", "1.5 x (1.5 to 1.5)"],
        [ELSEWHERE, "node 0-1", "3", "3", "3", "1.5 x (1.5 to 1.5)"],
    ]
    assert rows[-1] == ["bound is 1.5 x (1.5 to 1.5) unbound: bind"]
    assert done.stderr.splitlines()[0] == "affinity: round 1 of 2, unbound (as a process is started here)"
    assert [run["values"] for run in printed["runs"]] == [[2.0] * 5, [3.0] * 5, [3.0] * 5]


def test_on_one_node_that_is_the_answer() -> None:
    """Without a run."""
    done = affinity(
        "bench", "--command", "touch never", "--node", "0", prefix=("taskset", "-c", str(min(os.sched_getaffinity(0))))
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "affinity: nothing to compare: CPUs of one node are allowed here (0)\n"
    assert not os.path.exists("never")


def test_a_malformed_pattern_is_an_error() -> None:
    done = called("bench", "--command", "true", "--metric", "(")
    assert done.returncode == 2
    assert "expected a regular expression of Python" in done.stderr
