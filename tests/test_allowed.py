"""What a captured process was allowed to use: the cpuset's files of archives that hold no status file.

The layouts are those that hwloc-gather-topology(1) finds: cgroup versions 1 and 2, and the cpuset file system.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import affinity
from affinity import CpuSet, Host, NodeSet
from affinity.api import plan_each
from affinity.testing import machines, trees
from affinity.topology import TopologyError
from affinity.topology.allowed import read_allowed
from affinity.topology.archive import write_archive

Capture = Callable[[dict[str, str]], str]

#: A job of a batch system, in each of the places where its limits may lie.
LAYOUTS = {
    "version 2": {
        "proc/self/cpuset": "/job/step",
        "sys/fs/cgroup/cpuset.cpus.effective": "0-31",
        "sys/fs/cgroup/job/step/cpuset.cpus.effective": "0-5,99",
        "sys/fs/cgroup/job/step/cpuset.mems.effective": "1",
    },
    "version 2, mounted elsewhere": {
        "proc/self/cgroup": "0::/job/step",
        "proc/mounts": "none /cgroup/unified cgroup2 rw 0 0",
        "cgroup/unified/job/step/cpuset.cpus.effective": "0-5",
        "cgroup/unified/job/step/cpuset.mems.effective": "1",
    },
    "version 1": {
        "proc/self/cgroup": "3:memory:/other\n2:cpu,cpuset:/job\n0::/init.scope",
        "sys/fs/cgroup/cpuset/job/cpuset.cpus": "0-5",
        "sys/fs/cgroup/cpuset/job/cpuset.mems": "1",
    },
    "version 1 beside version 2": {
        "proc/self/cpuset": "/job",
        "proc/mounts": "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /cs cgroup rw,cpuset 0 0",
        "cs/job/cpuset.cpus": "0-5",
        "cs/job/cpuset.mems": "1",
    },
    "version 1 without prefix": {
        "proc/self/cpuset": "/job",
        "proc/mounts": "none /cs cgroup rw,relatime,cpuset,noprefix,release_agent=/sbin/x 0 0",
        "cs/job/cpus": "0-5",
        "cs/job/mems": "1",
    },
    "the cpuset file system": {
        "proc/self/cpuset": "/job",
        "dev/cpuset/cpus": "0-31",
        "dev/cpuset/job/cpus": "0-5",
        "dev/cpuset/job/mems": "1",
    },
    "the cpuset file system, mounted elsewhere": {
        "proc/self/cpuset": "/job",
        "proc/mounts": "none /cs cpuset rw 0 0",
        "cs/job/cpus": "0-5",
        "cs/job/mems": "1",
    },
}


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    """Write a machine of two nodes of 16 CPUs with these files besides, and no status file."""

    def write(files: dict[str, str]) -> str:
        root = tmp_path / "root"
        trees.write(machines.get("vm-known-bridge"), root, status=False)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text + "\n")
        return str(root)

    return write


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_captured_cpuset_is_the_limit(layout: str, capture: Capture) -> None:
    """Nothing outside it is planned; the other GPU's node has no CPU there."""
    host = Host.from_root(capture(LAYOUTS[layout]))
    assert (str(host.allowed_cpus), str(host.allowed_nodes), host.notes) == ("0-5", "1", ())
    first, second = plan_each(host=host)
    assert first.placement is not None
    assert str(first.placement.cpus) == "0-5"
    assert "no CPU of node 1" in second.problem


def test_an_archive_of_a_capture_keeps_the_limit(capture: Capture, tmp_path: Path) -> None:
    """`affinity gather --root` of another tool's capture writes the limit down as a status file has it."""
    write_archive(str(tmp_path / "m.tar.gz"), capture(LAYOUTS["version 2"]))
    host = Host.from_root(str(tmp_path / "m.tar.gz"))
    assert (str(host.allowed_cpus), str(host.allowed_nodes)) == ("0-5", "1")


def test_a_status_file_and_the_caller_go_before_the_cpuset(capture: Capture) -> None:
    """Each for what it names: a status file has the mask that is in force, which may be narrower."""
    root = capture({**LAYOUTS["version 2"], "proc/self/status": "Cpus_allowed_list:\t2-3"})
    assert read_allowed(root) == (CpuSet([2, 3]), NodeSet([1]), ())
    host = Host.from_root(root, allowed_cpus=CpuSet([1]), allowed_nodes=NodeSet([0]))
    assert (host.allowed_cpus, host.allowed_nodes) == (CpuSet([1]), NodeSet([0]))


@pytest.mark.parametrize("where", [{"proc/self/cpuset": "/job"}, {"proc/self/cgroup": "0::/job"}])
def test_a_cpuset_whose_files_are_not_captured_is_a_note(where: dict[str, str], capture: Capture) -> None:
    """Every CPU counts as allowed then, and the plan states so, for a GPU as for a node."""
    host = Host.from_root(capture(where))
    assert host.allowed_cpus == host.topology.online
    for planned in (affinity.plan(gpu="all", host=host), affinity.plan(node=0, host=host)):
        (note,) = planned.launch.notes
        assert note.startswith("the process was in cpuset /job, whose files are not in the capture")
        assert "--allowed-cpus" in note
    assert Host.from_root(capture(where), allowed_cpus=CpuSet([1])).notes == ()


@pytest.mark.parametrize("files", [{}, {"proc/self/cpuset": "/"}, {"proc/mounts": "none /cs cpuset rw 0 0"}])
def test_a_process_in_no_cpuset_has_no_limit(files: dict[str, str], capture: Capture) -> None:
    """And there is nothing to note."""
    host = Host.from_root(capture(files))
    assert (host.allowed_cpus, host.notes) == (host.topology.online, ())


def test_an_empty_cpuset_file_is_no_limit(capture: Capture) -> None:
    """A group of version 2 without limits of its own; and no empty mask."""
    files = {**LAYOUTS["version 1"], "sys/fs/cgroup/cpuset/job/cpuset.cpus": ""}
    assert read_allowed(capture(files)) == (None, NodeSet([1]), ())


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"proc/self/status": "Cpus_allowed_list:\tmany"}, "proc/self/status"),
        ({**LAYOUTS["version 1"], "sys/fs/cgroup/cpuset/job/cpuset.mems": "one"}, "cpuset/job/cpuset.mems"),
        ({"proc/self/cpuset": "/../../etc"}, "without '..'"),
        ({"proc/self/cpuset": "/job", "proc/mounts": "none /../etc cpuset rw 0 0"}, "without '..'"),
        ({"proc/self/cpuset": "/a\0b"}, "without '..', NUL"),
    ],
)
def test_a_malformed_file_is_named(files: dict[str, str], named: str, capture: Capture) -> None:
    """Also a path that leaves the capture."""
    with pytest.raises(TopologyError, match=named):
        read_allowed(capture(files))
