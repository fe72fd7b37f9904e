"""Refused calls that show on several nodes only: pages that may not be moved."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import affinity

from .confined import confined

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import seccomp

pytestmark = pytest.mark.machine("two-package", "arm-two-package", "arm-16k")


def work(refused: int) -> list[Any]:
    """64 MiB touched on node 0, then a bind to node 2; what the report states."""
    if refused:
        seccomp.refuse(refused, ["migrate_pages", "move_pages"])
    os.sched_setaffinity(0, {0, 1})
    block = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(block)), 1, len(block))
    os.sched_setaffinity(0, set(range(8)))
    report = affinity.bind(node=2)
    printed = [str(d) for d in report.degradations]
    now = [str(report.observed.threads[report.observed.caller]), str(report.observed.policy), report.satisfied]
    return [*now, report.local_share, report.moved, printed]


@pytest.mark.parametrize("number", ["EPERM", "ENOSYS"])
def test_pages_that_may_not_be_moved_are_reported(number: str) -> None:
    """Docker with SYS_NICE: policies are allowed, moving pages never. numa_maps shows where they still lie."""
    *now, share, moved, printed = confined(lambda: work(getattr(errno, number)))
    assert (now, moved) == (["4-5", "preferred:2", True], 0)
    assert 0 <= share < 0.3
    (words,) = printed
    assert words.startswith("move pages touched before: ")
    assert f"in move_pages [{number}]" in words


def test_without_a_filter_they_are_moved() -> None:
    """The same work: what the test above sees is the filter's doing. What is left it shares with that forked it."""
    *now, share, moved, printed = confined(lambda: work(0))
    assert (now, printed) == (["4-5", "preferred:2", True], [])
    assert share > 0.7
    assert moved >= 64 << 20
