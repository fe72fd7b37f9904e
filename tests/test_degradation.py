"""Remedies are for refused calls of a bind; a plugin's own error has the plugin's words alone."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

import affinity
from affinity import BindError, Settings
from affinity.degradation import Degradation
from affinity.errors import ForeignProcError
from affinity.testing import FakeHost

TWO = "pack:2 core:4 gpu:1"
EPERM, EACCES, EINVAL, ENOSYS = (os.strerror(n) for n in (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS))


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.EPERM, EPERM, "set_mempolicy"), "--cap-add SYS_NICE"),
        (OSError(errno.EINVAL, EINVAL, "sched_setaffinity"), "outside the cpuset"),
        (OSError(errno.ENOSYS, ENOSYS, "move_pages"), "CONFIG_NUMA"),
        (OSError(errno.EPERM, EPERM), "--cap-add SYS_NICE"),
        (OSError(errno.EPERM, EPERM, "/proc/self/numa_maps"), "--cap-add SYS_NICE"),
        (OSError(errno.EACCES, EACCES, "/proc/1/maps"), "run as root"),
        (OSError(errno.EPERM, f"{EPERM}; to count them would stall", "move_pages"), "--cap-add SYS_NICE"),
        (ForeignProcError(errno.EOPNOTSUPP, "of another PID namespace", "/proc"), "unshare --mount-proc"),
        (BindError(f"numactl: exit status 1: setting membind: {EPERM}"), "--cap-add SYS_NICE"),
    ],
    ids=str,
)
def test_a_refused_call_of_a_bind_has_a_remedy(error: OSError | BindError, remedy: str) -> None:
    """By its errno."""
    assert remedy in Degradation.of("x", error).remedy


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EPERM, EPERM, "/dev/acme"), f"{EPERM} in /dev/acme"),
        (OSError(errno.EACCES, EACCES, "/sys_of_mine"), f"{EACCES} in /sys_of_mine"),
        (OSError(errno.EINVAL, EINVAL, "ioprio_set"), f"{EINVAL} in ioprio_set"),
        (OSError(errno.EPERM, "the daemon refused this user: join group acme"), "the daemon refused this user: join"),
        (OSError(errno.EPERM, "node 1 is outside the cpuset of the process", "move_pages"), "outside the cpuset"),
        (OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)), os.strerror(errno.EOPNOTSUPP)),
        (BindError(f"acmed: {EPERM} for user 1000: join group acme"), "join group acme"),
    ],
    ids=str,
)
def test_an_error_of_another_origin_has_its_own_words_alone(error: OSError | BindError, words: str) -> None:
    """No remedy for a container, a kernel or a cpuset that has no part in it."""
    found = Degradation.of("x", error)
    assert words in found.error
    assert found.remedy == ""


@pytest.fixture
def _own_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "dists" / "own_calls"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.usefixtures("_own_calls")
@pytest.mark.parametrize("outside", [False, True], ids=["bind", "attach"])
def test_a_refusal_of_a_plugins_device_is_reported_in_its_words(outside: bool) -> None:
    """Whether it binds its own process or another."""
    fake = FakeHost(TWO)
    settings = Settings(strategies=("own-device",))
    if outside:
        report = affinity.attach(fake.start_process().pid, gpu=1, host=fake.host, settings=settings)
    else:
        report = affinity.bind(gpu=1, host=fake.host, settings=settings)
    assert {str(d).partition(": ")[0] for d in report.degradations} == {"own-device"}
    assert {str(d).rpartition(": ")[2] for d in report.degradations} == {f"{EPERM} in /dev/acme [EPERM]"}


@pytest.mark.usefixtures("_own_calls")
@pytest.mark.parametrize("outside", [False, True], ids=["bind", "attach"])
def test_a_refusal_that_does_not_fail_the_bind_names_strategy_and_call(outside: bool) -> None:
    """Pages are mentioned only where their move was refused."""
    fake = FakeHost(TWO)
    settings = Settings(strategies=("own-calls",))
    fake.kernel.refuse("migrate_pages", errno.EPERM)
    if outside:
        report = affinity.attach(fake.start_process().pid, gpu=1, host=fake.host, settings=settings)
    else:
        report = affinity.bind(gpu=1, host=fake.host, settings=settings)
    pages, own = map(str, report.degradations)
    assert pages.startswith(f"move pages touched before: {EPERM} in move_pages [EPERM]; ")
    assert own == f"strategy own-calls: {EPERM} in ioprio_set [EPERM]"
    assert report.satisfied
