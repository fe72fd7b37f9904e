"""`attach` on a kernel with several nodes: threads, pages, what stays behind and what is reported.

The machine: node 0 has CPUs 0-1, node 1 2-3, node 2 4-5, node 3 6-7; each has 512 MiB.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import affinity
from affinity import CpuSet, Settings
from affinity.kernel.linux import THIS_PROCESS

from .confined import affinity_command, cpuset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from server import Server, build

pytestmark = pytest.mark.machine("two-package")

MIB = 1 << 20
ALL, NODE_3 = CpuSet(range(8)), CpuSet([6, 7])
UNPRIVILEGED = 65534


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ["XDG_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("runtime"))
    return build(tmp_path_factory.mktemp("server"))


ARM = ("arm-two-package", "arm-16k")


def servers(*others: str) -> pytest.MarkDecorator:
    """The server in C and the one in Python, and the latter on other machines too: an Arm guest has no compiler."""
    python = pytest.param("Python", marks=pytest.mark.machine("two-package", *others))
    return pytest.mark.parametrize("server", ["C", python], indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(request.getfixturevalue("program") if request.param == "C" else None) as running:
        yield running


@pytest.fixture
def c_server(program: Path) -> Iterator[Server]:
    with Server(program) as running:
        yield running


@pytest.fixture
def no_balancing() -> Iterator[None]:
    """Without automatic NUMA balancing, by which the kernel itself moves pages to the threads that use them.

    A page that it has marked for that has no node for move_pages(2) until it is used.
    """
    setting = Path("/proc/sys/kernel/numa_balancing")
    setting.write_text("0")
    yield
    setting.write_text("1")


def on_node(running: Server, node: int, mib: int) -> None:
    """Let a server touch memory on a node, and run anywhere after that."""
    os.sched_setaffinity(running.pid, {2 * node, 2 * node + 1})
    running.order("touch", mib * MIB)
    os.sched_setaffinity(running.pid, ALL)


def own_pages(pid: int) -> dict[int, int]:
    """Bytes of anonymous pages by node, from numa_maps, page by page as the kernel counts them."""
    found: dict[int, int] = {}
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        fields = dict(part.partition("=")[::2] for part in line.split()[2:])
        if "anon" in fields and "file" not in fields:
            for name, pages in fields.items():
                if name[:1] == "N" and name[1:].isdigit():
                    found[int(name[1:])] = found.get(int(name[1:]), 0) + int(pages) * mmap.PAGESIZE
    return found


def share(pages: dict[int, int], node: int) -> float:
    return pages.get(node, 0) / sum(pages.values())


def degraded(row: Any) -> str:
    """What is degraded, each on a line: what was tried, errno, error and remedy."""
    return "\n".join("; ".join(filter(None, d.values())) for d in row["degradations"])


def command(pid: int, *options: str, refused: tuple[str, ...] = (), **environ: str) -> tuple[int, str, Any]:
    """`affinity attach --json`, with EPERM for the calls `refused`: the status, what stands on stderr, and the row."""
    done = affinity_command("attach", str(pid), "--json", *options, refused=refused, **environ)
    return done.returncode, done.stderr, json.loads(done.stdout)[0]


@servers("two-package-backports", *ARM)  # from Linux 6.7 on, one call lists the pages
def test_threads_and_pages_are_brought_to_the_node_and_new_ones_follow(server: Server) -> None:
    """20 threads and 256 MiB, all of the threads and at least 99 % of the pages; undo restores the masks."""
    server.threads(19)
    on_node(server, 0, 256)
    assert share(own_pages(server.pid), 0) > 0.9
    report = affinity.attach(server.pid, node=3, settings=Settings(required=True))
    assert (report.strategy, report.satisfied, report.degradations) == ("external", True, ())
    assert (server.mask(), len(server.masks())) == (NODE_3, 20)
    pages = own_pages(server.pid)
    assert share(pages, 3) >= 0.99
    assert report.moved >= 0.9 * 256 * MIB
    assert report.local_share == pytest.approx(share(pages, 3), abs=0.05)
    server.threads(1)
    server.order("touch", 32 * MIB)
    assert (server.mask(), len(server.masks())) == (NODE_3, 21)
    assert own_pages(server.pid)[3] - pages[3] >= 32 * MIB
    report.undo()
    assert server.mask() == ALL


def test_a_thread_that_binds_its_memory_elsewhere_is_reported(c_server: Server) -> None:
    """Threads and pages are moved, new pages of that thread are not; under `required` nothing is changed."""
    c_server.threads(2)
    on_node(c_server, 0, 64)
    assert c_server.order("policy", 2, 0) == "0"
    status, errors, row = command(c_server.pid, "--node", "3", AFFINITY_ENFORCE="required")
    assert status == 3
    assert "new memory still goes to node 0: 1 of 3 threads have memory policy bind:0" in errors
    assert (c_server.mask(), share(c_server.pages(), 0)) == (ALL, 1)
    status, _, row = command(c_server.pid, "--node", "3")
    assert (status, row["satisfied"], c_server.mask()) == (0, False, NODE_3)
    assert degraded(row).startswith("memory on node 3; new memory still goes to node 0")
    assert "; restart it through `affinity run`" in degraded(row)
    before = c_server.pages()
    assert share(before, 3) >= 0.99
    c_server.order("touch", 16 * MIB)
    assert c_server.pages()[0] >= 16 * MIB // 4096


@pytest.mark.parametrize("required", [False, True])
def test_a_cpuset_without_the_node_is_respected(program: Path, required: bool) -> None:
    """Of the target, not of the process that attaches: its CPUs are bound, its memory stays in the cpuset."""
    with cpuset(mems="0-2") as group, Server(program) as running:
        (group / "cgroup.procs").write_text(str(running.pid))
        on_node(running, 0, 32)
        enforce = "required" if required else "best-effort"
        status, errors, row = command(running.pid, "--node", "3", AFFINITY_ENFORCE=enforce)
        expected = "its cpuset allows memory of node 0-2, not of node 3"
        assert share(running.pages(), 0) == 1
        if required:
            assert (status, running.mask()) == (3, ALL)
            assert expected in errors
        else:
            assert (status, row["satisfied"], running.mask()) == (0, False, NODE_3)
            assert expected in degraded(row)


def test_no_control_group_is_changed(program: Path) -> None:
    """Not even where it is what keeps the process from the node."""
    with cpuset(cpus="0-3", mems="0-1") as group, Server(program) as running:
        (group / "cgroup.procs").write_text(str(running.pid))

        def state() -> list[str]:
            files = (*sorted(group.glob("cpuset.*")), group / "cgroup.procs", Path(f"/proc/{running.pid}/cgroup"))
            return [file.read_text() for file in files]

        before = state()
        for options in (["--node", "3"], ["--node", "1"], ["--node", "1", "--widen"]):
            command(running.pid, *options)
        assert command(running.pid, "--undo")[0] == 0
        assert state() == before


def test_a_cpuset_without_the_nodes_cpus_is_respected(program: Path) -> None:
    """Also with --widen, which goes up to the cpuset."""
    with cpuset(cpus="0-3") as group, Server(program) as running:
        (group / "cgroup.procs").write_text(str(running.pid))
        before = running.mask()
        status, errors, _ = command(running.pid, "--node", "3", "--widen", AFFINITY_ENFORCE="required")
        assert status == 3
        assert "no CPU of node 3 (6-7) is allowed here (allowed: 0-3)" in errors
        assert running.mask() == before
        os.sched_setaffinity(running.pid, {0, 1})
        assert command(running.pid, "--node", "1", AFFINITY_ENFORCE="required")[0] == 3
        assert command(running.pid, "--node", "1", "--widen", AFFINITY_ENFORCE="required")[0] == 0
        assert running.mask() == CpuSet([2, 3])


@pytest.fixture
def _strict_yama() -> Iterator[None]:
    """Its strictest setting but for 3, which could not be taken back."""
    setting = Path("/proc/sys/kernel/yama/ptrace_scope")
    setting.write_text("2")
    yield
    setting.write_text("0")


@pytest.mark.usefixtures("_strict_yama")
def test_a_user_without_capabilities_moves_its_own_process(c_server: Server, tmp_path: Path) -> None:
    """Threads and pages, by the command in a process of its own; Yama is about ptrace(2) alone."""
    on_node(c_server, 0, 64)
    assert c_server.order("user", UNPRIVILEGED) == "0"
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, UNPRIVILEGED, UNPRIVILEGED)
    for parent in own.parents:
        os.chmod(parent, 0o755)
    drop = ("setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups",
            "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--")  # fmt: skip
    argv = [*drop, sys.executable, "-m", "affinity", "attach", str(c_server.pid), "--json", "--node", "3"]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(own)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False, env=environ)
    (row,) = json.loads(done.stdout)
    assert (done.returncode, done.stderr, degraded(row), c_server.mask()) == (0, "", "", NODE_3)
    assert row["satisfied"]
    assert share(c_server.pages(), 3) >= 0.99


def test_root_attaches_to_an_undumpable_process_of_another_user(c_server: Server) -> None:
    """All of it."""
    c_server.order("user", UNPRIVILEGED)
    assert c_server.order("undumpable") == "0"
    on_node(c_server, 0, 32)
    assert affinity.attach(c_server.pid, node=3, settings=Settings(required=True)).satisfied
    assert c_server.mask() == NODE_3
    assert share(c_server.pages(), 3) >= 0.99


@pytest.mark.usefixtures("no_balancing")
def test_a_node_nearly_full_takes_what_fits(program: Path) -> None:
    """It is reported before and after; what does not fit stays where it was, and nothing is killed."""
    with ExitStack() as stack:
        filler, running = (stack.enter_context(Server(program)) for _ in range(2))
        on_node(running, 0, 192)
        room = THIS_PROCESS.available_bytes(3)
        filler.order("policy", 2, 3)  # else node 2 takes it before the page cache of node 3 is emptied
        on_node(filler, 3, (room >> 20) - 96)
        status, errors, _ = command(running.pid, "--node", "3", AFFINITY_ENFORCE="required")
        assert status == 3
        assert "MiB lie elsewhere, node 3 has room for" in errors
        assert (running.mask(), running.pages()) == (ALL, {0: 192 * MIB // 4096})
        status, errors, row = command(running.pid, "--node", "3")
        assert (status, running.mask()) == (0, NODE_3)
        assert "node 3 has room for" in degraded(row)
        pages = running.pages()
        assert sum(pages.values()) == 192 * MIB // 4096
        assert pages.get(3, 0) >= 16 * MIB // 4096
        assert pages.get(0, 0) >= 16 * MIB // 4096
        assert share(filler.pages(), 3) >= 0.9
        assert row["moved"] > 0


@pytest.mark.usefixtures("no_balancing")
def test_memory_shared_with_a_bystander_stays(program: Path) -> None:
    """What another process maps is not the target's to move: its pages, threads and policy are as before."""
    shared = Path("/dev/shm/attach-test")
    shared.write_bytes(b"\0" * (32 * MIB))
    with Server(program) as running, Server(program) as bystander:
        on_node(bystander, 0, 32)
        bystander.order("share", shared)
        on_node(running, 0, 32)
        running.order("share", shared)

        def nodes() -> list[str]:
            maps = Path(f"/proc/{bystander.pid}/numa_maps").read_text().splitlines()
            (line,) = (line for line in maps if str(shared) in line)
            return [part for part in line.split() if part[0] == "N"]

        before = nodes()
        assert affinity.attach(running.pid, node=3, settings=Settings(required=True)).satisfied
        assert share(running.pages(), 3) >= 0.99
        assert (nodes(), bystander.pages(), bystander.mask()) == (before, {0: 32 * MIB // 4096}, ALL)
    shared.unlink()


def test_pinned_pages_stay_and_are_reported(c_server: Server) -> None:
    """A fixed buffer of io_uring: the others are moved, also those that come after it in a chunk."""
    on_node(c_server, 0, 32)
    assert c_server.order("pin-pages") == "0"
    on_node(c_server, 0, 32)
    status, _, row = command(c_server.pid, "--node", "3")
    assert (status, c_server.mask(), row["left"]) == (0, NODE_3, 32 * MIB)
    assert c_server.pages() == {0: 32 * MIB // 4096, 3: 32 * MIB // 4096}
    assert degraded(row) == (
        "move pages touched before; 32 MiB stay: pinned, as for io_uring or a device, or shared with a process that it "
        "was forked from; restart it through `affinity run`"
    )


@pytest.mark.usefixtures("no_balancing")
def test_pages_of_a_process_that_may_not_be_moved_are_reported(c_server: Server) -> None:
    """Under Docker's profile: threads are bound, the pages stay, and the errno is in the report."""
    on_node(c_server, 0, 64)
    _, _, row = command(c_server.pid, "--node", "3", refused=("move_pages", "migrate_pages"))
    assert (c_server.mask(), row["moved"], share(c_server.pages(), 0)) == (NODE_3, 0, 1)
    assert degraded(row).startswith("move pages touched before; EPERM; ")


@pytest.mark.usefixtures("no_balancing")
def test_no_pages_leaves_them_alone(c_server: Server) -> None:
    """New ones go to the node all the same."""
    on_node(c_server, 0, 32)
    assert command(c_server.pid, "--node", "3", "--no-pages")[2]["moved"] == 0
    c_server.order("touch", 32 * MIB)
    assert c_server.pages() == {0: 32 * MIB // 4096, 3: 32 * MIB // 4096}


def test_a_gpu_names_the_node_and_its_own_environment_names_the_gpu(program: Path) -> None:
    """By PCI address, which is certain: the variable is the process's own."""
    gpu = next(g.address for g in affinity.Host.live().topology.pci_devices if g.numa_node == 3)
    with Server(program) as running:
        assert command(running.pid, "--gpu", str(gpu))[2]["requested"]["nodes"] == [3]
        assert running.mask() == NODE_3
