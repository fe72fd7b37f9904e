"""The Linux kernel's calls, for real; what changes a process is done in a child."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from affinity import CpuSet, NodeSet
from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.kernel.linux import THIS_PROCESS
from affinity.kernel.procfs import mempolicy_of_maps


def test_the_mask_is_the_schedulers() -> None:
    """Of the calling thread and of this process."""
    assert set(THIS_PROCESS.get_affinity()) == os.sched_getaffinity(0)
    assert THIS_PROCESS.thread_id() == threading.get_native_id()
    assert THIS_PROCESS.pid in THIS_PROCESS.threads()


def test_refused_masks_raise_their_errno() -> None:
    """Empty, not there, and of a thread that has ended."""
    with pytest.raises(OSError) as empty:
        THIS_PROCESS.set_affinity(0, CpuSet())
    assert empty.value.errno == errno.EINVAL
    with pytest.raises(OSError) as absent:
        THIS_PROCESS.set_affinity(0, CpuSet([4000]))
    assert absent.value.errno == errno.EINVAL
    with pytest.raises(ProcessLookupError):
        THIS_PROCESS.get_affinity(2**22 - 1)


@pytest.mark.parametrize(
    "policy",
    [
        MemoryPolicy(MemoryMode.PREFERRED, NodeSet([0])),
        MemoryPolicy(MemoryMode.BIND, NodeSet([0])),
        MemoryPolicy(MemoryMode.INTERLEAVE, NodeSet([0])),
        MemoryPolicy(MemoryMode.PREFERRED_MANY, NodeSet([0])),
        MemoryPolicy(MemoryMode.LOCAL),
        MemoryPolicy(),
    ],
    ids=str,
)
@pytest.mark.parametrize("call", ["set_mempolicy", "set_mempolicy_libnuma"])
def test_a_memory_policy_is_read_back_as_set(policy: MemoryPolicy, call: str) -> None:
    """By the system call and by libnuma; a policy belongs to its thread, so a thread of its own is used."""
    found: list[object] = []

    def worker() -> None:
        try:
            getattr(THIS_PROCESS, call)(policy)
            found.append(THIS_PROCESS.get_mempolicy())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=worker)
    thread.start()
    thread.join()
    if call == "set_mempolicy_libnuma" and policy.mode is MemoryMode.DEFAULT:
        assert "no call for memory policy default" in str(found[0])
    else:
        assert found == [policy]
    assert THIS_PROCESS.get_mempolicy() == MemoryPolicy()


def test_a_policy_on_a_node_that_is_not_there_is_refused() -> None:
    """The kernel's own EINVAL, with the call's name."""
    with pytest.raises(OSError, match="set_mempolicy") as refused:
        THIS_PROCESS.set_mempolicy(MemoryPolicy(MemoryMode.PREFERRED, NodeSet([900])))
    assert refused.value.errno == errno.EINVAL


def test_libnuma_is_never_asked_for_a_node_beyond_its_mask(python) -> None:  # type: ignore[no-untyped-def]
    """Some of py-libnuma's calls would end the process: the bit is not set, and nothing is bound there."""
    text = (
        "from affinity.kernel import *; from affinity.topology import *; from affinity import *\n"
        "from affinity.kernel.linux import THIS_PROCESS\n"
        "THIS_PROCESS.set_mempolicy_libnuma(MemoryPolicy(MemoryMode.BIND, NodeSet([0, 60000])))\n"
        "print(THIS_PROCESS.get_mempolicy())"
    )
    assert python(text).stdout == "bind:0\n"


def test_allowed_nodes_are_the_status_files() -> None:
    """`Mems_allowed_list` of this thread."""
    assert THIS_PROCESS.allowed_nodes()
    with open("/proc/self/status") as status:
        line = next(x for x in status if x.startswith("Mems_allowed_list"))
    assert str(THIS_PROCESS.allowed_nodes()) == line.split()[1]


def test_resident_counts_anonymous_pages() -> None:
    """32 MiB that are touched appear; none of a file does."""
    before = sum(THIS_PROCESS.resident_bytes().values())
    # Not of the heap, where pages that other tests have freed may be used again.
    block = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.write(b"1" * len(block))
    assert sum(THIS_PROCESS.resident_bytes().values()) - before >= 32 << 20


def test_migrating_to_the_only_node_leaves_nothing_behind() -> None:
    """On this machine from node 0 to node 0: the call is made, and answers 0."""
    assert THIS_PROCESS.migrate_pages(NodeSet([0]), NodeSet([0])) == 0


def test_age_is_that_of_the_process(python) -> None:  # type: ignore[no-untyped-def]
    """Seconds, from the start of the process."""
    text = "import time; time.sleep(0.3); from affinity.kernel.linux import THIS_PROCESS; print(THIS_PROCESS.age())"
    assert 0.3 <= float(python(text).stdout) < 30


@pytest.mark.parametrize(
    ("argv", "printed"),
    [
        (["true"], None),
        (["sh", "-c", "echo first >&2; echo second >&2; exit 3"], "exit status 3: second"),
        (["sh", "-c", "kill -9 $$"], "signal 9"),
        (["sleep", "30"], "did not answer within 0.5 s"),
        (["/nonexistent/program"], "cannot be executed"),
        (["/etc"], "cannot be executed"),
    ],
)
def test_a_probe_shows_how_a_command_failed(argv: list[str], printed: str | None) -> None:
    """Its last line, its status or signal, or that it hung."""
    answer = THIS_PROCESS.check_command(argv, 0.5)
    assert answer is None if printed is None else printed in (answer or "")


#: Take every descriptor that RLIMIT_NOFILE leaves.
EXHAUST = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
def exhaust():
    try:
        while True:
            os.open("/dev/null", os.O_RDONLY)
    except OSError:
        pass
"""


@pytest.mark.parametrize("call", ["threads", "allowed_nodes", "resident_bytes", "age", "online", "identity"])
def test_without_a_free_descriptor_each_call_names_the_limit(call: str, python: Callable[..., object]) -> None:
    """An error of this package, which an OSError is too; never a guess for a file that may be there."""
    python(
        f"{EXHAUST}\n"
        "from affinity import AffinityError\n"
        "from affinity.kernel.linux import THIS_PROCESS\n"
        "exhaust()\n"
        "try:\n"
        f"    raise AssertionError(THIS_PROCESS.{call}())\n"
        "except AffinityError as error:\n"
        "    assert isinstance(error, OSError) and error.errno == 24, error\n"
        "    for part in (error.filename, 'Too many open files', 'ulimit -n'):\n"
        "        assert part in str(error), error\n"
        "    assert error.filename.startswith(('/proc/', '/sys/')), error\n"
    )


@pytest.mark.parametrize(
    "call", ["affinity.bind(node=0)", "affinity.plan(node=0)", "affinity.spawning(node=0).__enter__()"]
)
def test_without_a_free_descriptor_a_public_call_raises_an_error_of_this_package(
    call: str, python: Callable[..., object]
) -> None:
    """Also the first one, which has modules to import."""
    python(
        f"{EXHAUST}\n"
        "import affinity\n"
        "assert affinity.bind and affinity.AffinityError\n"
        "exhaust()\n"
        "try:\n"
        f"    {call}\n"
        "except affinity.AffinityError as error:\n"
        "    assert 'Too many open files' in str(error), error\n"
        "else:\n"
        "    raise AssertionError\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        *(f"-m affinity {c}" for c in ("show", "plan", "explain --node 0", "run --node 0 -- true", "run --gpu 0 true")),
        "-c 'import affinity; affinity.bind(node=0)'",
        "-c 'import affinity; affinity.spawning(node=0).__enter__()'",
        "-c 'from affinity.kernel.linux import THIS_PROCESS; THIS_PROCESS.threads()'",
        "-c 'from affinity.kernel.linux import THIS_PROCESS; THIS_PROCESS.age()'",
    ],
)
def test_without_proc_the_error_names_the_file_and_the_remedy(command: str) -> None:
    """In a mount namespace with an empty directory in its place."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare -m is refused here: it needs CAP_SYS_ADMIN")
    text = f"mount -t tmpfs none /proc && exec {sys.executable} {command}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (2 if "-m affinity" in command else 1), done.stdout
    last = done.stderr.splitlines()[-1]
    prefix, _, message = last.partition(": ")
    assert prefix in ("affinity", "affinity.errors.SystemFileError")
    assert message.startswith("/proc/")
    assert message.endswith(
        "No such file or directory; expected a readable file: mount proc on /proc and sysfs on /sys"
    )


@pytest.mark.parametrize(("length", "is_whole"), [(62, True), (63, False)])
def test_a_policy_that_numa_maps_may_have_cut_is_not_used(tmp_path: Path, length: int, is_whole: bool) -> None:
    """The kernel prints 63 characters of one at most: mpol_to_str() with a buffer of 64, in fs/proc/task_mmu.c."""
    nodes = "0"
    while len(f"bind:{nodes},") < length - 2:
        nodes += f",{int(nodes.rpartition(',')[2]) + 2}"
    text = f"bind:{nodes}".ljust(length, "0")
    (tmp_path / "numa_maps").write_text(f"7f0123456000 {text} anon=1 dirty=1\n")
    if is_whole:
        assert mempolicy_of_maps(str(tmp_path)).mode is MemoryMode.BIND
    else:
        with pytest.raises(OSError, match="no memory policy is shown"):
            mempolicy_of_maps(str(tmp_path))
