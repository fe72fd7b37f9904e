"""What a person types: machines by name, mistakes, what a shell completes; and what a call prints for a person."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import click
import pytest
import schemas
from commands import COMMAND, affinity, called, printed

import affinity as package
from affinity import Host, UsageError
from affinity.cli._commands import group
from affinity.testing import FakeHost, machines

TWO = "pack:2 core:4 gpu:1"
COMMANDS = ("show", "draw", "plan", "explain", "doctor", "strategies")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_named_machine_is_taken_wherever_a_synthetic_one_is(command: str) -> None:
    done = called(command, "--machine", "gh200")
    assert (done.returncode, done.stderr) == (0, "")
    both = called(command, "--machine", "gh200", "--synthetic", TWO)
    assert (both.returncode, both.stdout) == (2, "")
    assert "--machine and --synthetic are given, each for a machine: use one of them" in both.stderr


def test_a_named_machine_has_the_cpuset_of_its_record() -> None:
    """Unless another is given."""
    assert printed("show", "--machine", "container-without-gpu-node")["allowed_nodes"] == [0]
    shown = printed("show", "--machine", "container-without-gpu-node", "--allowed-nodes", "0-1")
    assert shown["allowed_nodes"] == [0, 1]
    assert machines.host("dgx-h100").allowed_nodes == machines.load("dgx-h100").memory_nodes


def test_the_machines_are_listed() -> None:
    found = schemas.load("machines", called("machines", "--json").stdout)["machines"]
    assert [machine["name"] for machine in found] == list(machines.names())
    (gb200,) = (machine for machine in found if machine["name"] == "gb200")
    assert (gb200["nodes"], gb200["cpus"], gb200["gpu_nodes"]) == (list(range(34)), "0-143", [0, 0, 1, 1])
    rows = [line.split("  ") for line in called("machines").stdout.splitlines()]
    assert [row[0] for row in rows if row != [""]] == ["machine", *machines.names()]


def test_a_machine_of_no_name_is_an_error_with_those_like_it() -> None:
    done = called("plan", "--machine", "dgxh100")
    assert done.returncode == 2
    assert done.stderr.startswith("affinity: no machine 'dgxh100': did you mean dgx-h100")


@pytest.mark.parametrize("command", [*COMMANDS, "ps", "demo", "run"])
@pytest.mark.parametrize(("variable", "text", "meant"), [
    ("AFFINITY_STRATEGY", "numctl", "numactl"),
    ("AFFINITY_POLICY", "sokcet", "socket"),
    ("AFFINITY_DEVICES", "nvlm", "nvml"),
])  # fmt: skip
def test_a_misspelled_name_is_an_error_of_every_command(command: str, variable: str, text: str, meant: str) -> None:
    """On this machine too, where no worker would need the plugin."""
    done = affinity(command, *(["--", "true"] if command == "run" else []), **{variable: text})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"affinity: {variable}={text}: no plugin {text!r} in affinity.")
    assert done.stderr.endswith(f"; did you mean {meant}?\n")


def test_the_hint_for_a_machine_without_gpus_works_as_typed() -> None:
    """Here, and on a machine of two nodes."""
    for machine in ((), ("--synthetic", "pack:2 core:2")):
        hint = affinity("plan", *machine, AFFINITY_DEVICES="pci").stdout
        name, _, nodes = hint.split(": ")[1].split()[0].partition("=")
        done = affinity("plan", "--json", *machine, **{name: nodes}, AFFINITY_DEVICES="pci")
        assert [str(plan["node"]) for plan in json.loads(done.stdout)] == nodes.split(",")


def test_each_command_is_listed_with_a_whole_summary() -> None:
    """At 80 columns."""
    listed = affinity("--help", COLUMNS="80").stdout.partition("Commands:\n")[2].splitlines()
    assert len(listed) == len(group.list_commands(click.Context(group)))
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


@pytest.mark.parametrize("arguments", [("show", "--machine", "gb200"), ("explain", "--json")])
def test_a_reader_that_ends_is_sigpipe_as_for_other_programs(arguments: tuple[str, ...]) -> None:
    with subprocess.Popen([COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE


def test_a_gpu_where_there_is_none_is_an_error_with_what_to_set() -> None:
    with pytest.raises(package.UnknownGpuError, match=r"node=N.*, or the node of each placeholder.*AFFINITY_NODES=0"):
        package.plan(gpu=0, host=Host.synthetic("pack:2 core:2"))


def test_a_node_that_is_not_there_is_the_same_error_in_a_call_and_a_command() -> None:
    done = affinity("run", "--node", "63", "--", "true")
    with pytest.raises(UsageError) as refused, package.spawning(node=63):
        pass
    assert (done.returncode, done.stderr) == (2, f"affinity: {refused.value}\n")
    assert affinity("explain", "--node", "63").stderr == done.stderr


@pytest.mark.parametrize(("option", "message"), [
    (("--allowed-cpus", "900"), "allowed CPUs 900 are not on the machine: online CPUs are 0-7"),
    (("--allowed-cpus", "0-9"), "allowed CPUs 8-9 are not on the machine: online CPUs are 0-7"),
    (("--allowed-nodes", "7"), "allowed nodes 7 are not on the machine: online nodes are 0-1"),
])  # fmt: skip
def test_what_is_allowed_is_on_the_machine(option: tuple[str, str], message: str) -> None:
    done = called("show", "--synthetic", TWO, *option)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"affinity: {message}\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", ["show", "plan --json", "machines", "--version", "--help", "doctor"])
def test_a_full_disk_is_one_message_and_status_74(arguments: str, unbuffered: str) -> None:
    """Found at the first write, or when what is buffered is written at the end."""
    command = [sys.executable, "-m", "affinity", *arguments.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
                              env={**os.environ, "PYTHONUNBUFFERED": unbuffered})  # fmt: skip
    assert (done.returncode, done.stderr) == (74, f"affinity: cannot write the output: {os.strerror(errno.ENOSPC)}\n")


@pytest.mark.parametrize(
    ("typed", "meant"), [("sho", "show"), ("stratgies", "strategies"), ("new_plugin", "new-plugin")]
)
def test_a_misspelled_command_is_an_error_with_the_nearest(typed: str, meant: str) -> None:
    done = called(typed)
    assert done.returncode == 2
    assert done.stderr.endswith(f"Error: No such command '{typed}'; did you mean {meant}?\n")


@pytest.mark.parametrize(("typed", "expected"), [
    ("plan --machine gb", ["gb200"]),
    ("run --policy so", ["socket"]),
    ("explain --strategy numactl,l", ["numactl,legacy", "numactl,libnuma"]),
    ("run --memory i", ["interleave"]),
    ("plan --launch-mode tor", ["torchrun"]),
    ("attach --gpu ", ["all", "0", "1"]),
])  # fmt: skip
def test_a_shell_completes_values(typed: str, expected: list[str]) -> None:
    """By click's protocol for bash, for which the words and the place of the cursor are variables."""
    environ = {"COMP_WORDS": f"affinity {typed}", "COMP_CWORD": str(len(typed.split(" "))),
               "_AFFINITY_COMPLETE": "bash_complete", "AFFINITY_NODES": "0,0"}  # fmt: skip
    completed = affinity(**environ).stdout.splitlines()
    assert [line.removeprefix("plain,") for line in completed] == expected


def test_a_setting_that_does_not_parse_completes_nothing() -> None:
    """And prints nothing into the line that is typed."""
    environ = {"COMP_WORDS": "affinity plan --gpu ", "COMP_CWORD": "3", "_AFFINITY_COMPLETE": "bash_complete"}
    done = affinity(**environ, AFFINITY_NODES="x")
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_explain_shows_what_can_be_set() -> None:
    """The value as the variable has it, and the names of installed plugins."""
    decided = {s["variable"]: s for s in printed("explain", "--machine", "dgx-h100", AFFINITY_SMT="one")["settings"]}
    assert {name: decided[name]["text"] for name in ("AFFINITY_STRATEGY", "AFFINITY_ENFORCE", "AFFINITY_AUTO",
                                                     "AFFINITY_SMT", "AFFINITY_NODES")} == {
        "AFFINITY_STRATEGY": "auto", "AFFINITY_ENFORCE": "best-effort", "AFFINITY_AUTO": "1", "AFFINITY_SMT": "one",
        "AFFINITY_NODES": "",
    }  # fmt: skip
    for variable, setting in decided.items():
        if setting["text"]:
            assert affinity("explain", "--machine", "dgx-h100", **{variable: setting["text"]}).returncode == 0
    assert "core-complex, even, exclusive, explicit" in decided["AFFINITY_POLICY"]["accepted"]
    rows = [line.split() for line in called("explain", "--machine", "dgx-h100").stdout.splitlines()]
    assert next(row for row in rows if row[:1] == ["AFFINITY_ENFORCE"])[-4:-2] == ["best-effort", "default"]


def test_a_plan_and_a_report_print_for_people_and_have_a_short_repr() -> None:
    fake = FakeHost("dgx-h100")
    planned = package.plan(gpu=4, host=fake.host, launch_mode="inline")
    placed = "by strategy libnuma: CPUs 56-111,168-223 and memory preferred:1, for 0000:9d:00.0"
    assert repr(planned) == f"<Plan: bound {placed}>"
    assert str(planned).splitlines() == [
        "strategy libnuma: launch mode inline: the process already runs",
        "placement: CPUs 56-111,168-223 and memory preferred:1 (all allowed CPUs of node 1)",
        "GPU 0000:9d:00.0: node 1 (from PCI numa_node)",
    ]
    report = package.bind(gpu=4, host=fake.host)
    assert repr(report) == f"<BindReport: bound {placed}; 0 degradations>"
    confined = package.plan(gpu=7, host=machines.host("container-without-gpu-node"))
    assert repr(confined).startswith("<Plan: not bound: no CPU of node 1 ")
    assert str(confined).splitlines()[0].startswith("strategy noop: no CPU of node 1 ")


def test_a_refused_call_is_reported_once() -> None:
    """Each strategy tries it for each weaker placement; the data have every attempt."""
    fake = FakeHost("dgx-h100")
    fake.kernel.refuse("set_affinity", errno.EPERM)
    report = package.bind(gpu=4, host=fake.host)
    assert len(report.degradations) == 4
    assert str(report).count("Operation not permitted") == 1
    assert str(report).startswith("strategy noop (libnuma was refused): launch mode inline: the process already runs\n")
    cpus, memory = "CPUs 56-111,168-223", "memory preferred:1"
    assert f"\ndegraded: libnuma and inherit: {cpus} and {memory}; libnuma and inherit: {cpus}: Operation " in str(
        report
    )
