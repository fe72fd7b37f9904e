"""What a bind logs: one line for it, one for each degradation, through the standard logging."""

from __future__ import annotations

import ast
import errno
import logging
import re
from pathlib import Path

import pytest

import affinity
from affinity import Settings
from affinity.testing import FakeHost

#: A placeholder GPU, and no CPU for its worker.
NOWHERE = {"AFFINITY_NODES": "0", "AFFINITY_POLICY": "explicit", "AFFINITY_CPUS": "4000"}
PACKAGE = Path(affinity.__file__).parent


def test_a_bind_is_one_line_of_information(caplog: pytest.LogCaptureFixture) -> None:
    """Which strategy put which GPU's worker where; a second bind states that it was in force already."""
    caplog.set_level(logging.INFO, "affinity")
    fake = FakeHost("dgx-h100")
    affinity.bind(gpu=4, host=fake.host)
    affinity.bind(gpu=4, host=fake.host)
    placed = "by strategy libnuma: CPUs 56-111,168-223 and memory preferred:1, for 0000:9d:00.0"
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("affinity.report", "INFO", f"affinity: bound {placed}"),
        ("affinity.report", "INFO", f"affinity: already in force {placed}"),
    ]


def test_each_degradation_and_what_is_not_in_force_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeHost("dgx-h100")
    fake.kernel.refuse("set_mempolicy", errno.EPERM)
    report = affinity.bind(gpu=4, host=fake.host)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(report.degradations) == 2
    assert warnings[:-1] == [
        "affinity: degraded: libnuma and inherit: CPUs 56-111,168-223 and memory preferred:1: Operation not permitted "
        "in set_mempolicy [EPERM]; allow the call: in a container --cap-add SYS_NICE or a seccomp profile that has it"
    ]
    assert warnings[-1].startswith("affinity: what was requested is not in force: requested by strategy ")


def test_a_worker_whose_gpu_is_on_no_known_node_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """With what helps; not one without a GPU, nor where the operator has turned binding off."""
    uuid = "GPU-1234abcd-0000-0000-0000-000000000000"
    fake = FakeHost("dgx-h100", environ={"CUDA_VISIBLE_DEVICES": uuid})
    affinity.bind(host=fake.host, settings=Settings(strategies=("noop",)))
    affinity.bind(host=fake.host, settings=Settings(auto=False))
    affinity.bind(host=FakeHost("numa:2 core:2").host)
    assert caplog.messages == []
    affinity.bind(host=fake.host)
    (warning,) = caplog.messages
    assert warning.startswith("affinity: not bound: GPU one of 0000:1b:00.0, 0000:43:00.0")
    assert f"node unknown: only the driver can resolve {uuid}; install numa-affinity[nvml]" in warning


def test_the_start_of_a_worker_warns_of_what_it_lost_when_it_starts(caplog: pytest.LogCaptureFixture) -> None:
    """Once for a block and a start method, and not for a method that nothing was started by."""
    fake = FakeHost("dgx-h100")
    fake.kernel.refuse("set_mempolicy", errno.EPERM)
    with affinity.spawning(gpu=4, host=fake.host):
        assert not caplog.records
        for _ in range(2):
            fake.start_worker()
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2  # numactl and inherit, once each


def test_the_start_of_a_worker_is_one_line_of_information(caplog: pytest.LogCaptureFixture) -> None:
    """With its PID. A worker of a machine without a GPU is stated to be unbound, and why."""
    caplog.set_level(logging.INFO, "affinity")
    fake = FakeHost("dgx-h100")
    with affinity.spawning(gpu=4, host=fake.host):
        pids = [fake.start_worker().kernel.pid for _ in range(2)]
    with affinity.spawning(host=FakeHost("pack:1 core:2").host):
        fake.start_worker()
    *bound, unbound = [r.getMessage() for r in caplog.records]
    placed = "by strategy numactl: CPUs 56-111,168-223 and memory preferred:1, for 0000:9d:00.0"
    assert bound == [f"affinity: started process {pid} bound {placed}" for pid in pids]
    assert re.fullmatch(r"affinity: started process \d+ unbound: .*no GPU.*", unbound)


def test_what_a_bind_moved_is_in_its_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "affinity")
    fake = FakeHost("dgx-h100")
    fake.kernel.touch(8 << 20)
    affinity.bind(gpu=4, host=fake.host)
    assert caplog.records[0].getMessage().endswith(", for 0000:9d:00.0; 8.0 MiB moved")


def test_a_variable_that_nothing_reads_is_warned_of_once(python) -> None:  # type: ignore[no-untyped-def]
    """With its near miss; several workers and binds of one process do not repeat it."""
    text = """
import os, affinity
os.environ["AFFINITY_POLCY"] = "socket"
for _ in range(2):
    with affinity.spawning(node=0): pass
    affinity.bind(node=0)
"""
    lines = [line for line in python(text).stderr.splitlines() if "AFFINITY_POLCY" in line]
    assert lines == ["affinity: AFFINITY_POLCY is not a setting and is ignored; did you mean AFFINITY_POLICY?"]


def test_warnings_reach_stderr_where_none_configured_logging(python) -> None:  # type: ignore[no-untyped-def]
    """By logging's handler of last resort; no handler is installed, and information stays quiet."""
    text = """
import logging, affinity
report = affinity.bind(gpu=0)
affinity.bind(node=0)
print(logging.getLogger("affinity").handlers, logging.getLogger().handlers)
"""
    done = python(text, **NOWHERE)
    assert done.stdout == "[] []\n"
    first, *rest = done.stderr.splitlines()
    assert first.startswith("affinity: degraded: place: AFFINITY_CPUS gives CPUs 4000 to this worker")
    assert all("not in force" in line for line in rest)


def test_a_program_that_turns_the_logger_off_gets_none(python) -> None:  # type: ignore[no-untyped-def]
    text = "import logging, affinity; logging.getLogger('affinity').setLevel(logging.CRITICAL); affinity.bind(gpu=0)"
    assert python(text, **NOWHERE).stderr == ""


def test_the_library_prints_nothing() -> None:
    """Only commands print, and the process that measures for one."""
    programs = PACKAGE / "benchmark/worker.py"
    files = [p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] != "cli" and p != programs]
    assert len(files) > 50
    for path in files:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], path
