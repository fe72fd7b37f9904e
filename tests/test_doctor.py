"""`affinity doctor`: each check, on simulated machines, fake roots and real refusals."""

from __future__ import annotations

import errno
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import driver
import pytest
import schemas
import seccomp
from commands import affinity, called, printed

from affinity import CpuSet, Host, NodeSet, Settings, bind
from affinity.collisions import find
from affinity.doctor import Check, Subject, Verdict, examine
from affinity.doctor.machine import SETTINGS
from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.observe import observe
from affinity.plugins import Plugins
from affinity.testing import FakeHost, machines, trees
from affinity.testing.machines.model import GiB, Machine, even_nodes, gpus_at
from affinity.topology.archive import write_archive

ROOT = Path(__file__).resolve().parent.parent
SHAPE = ROOT / "tests/engines/sglang_shape"
H100 = "dgx-h100"
PLUGINS = Plugins()
SMALL = Machine(even_nodes(2, cores=2, memory=GiB, packages=2), gpus=gpus_at("41:00.0 81:00.0", (0, 1)))


def examined(host: Host, root: Path | str | None = None, settings: Settings | None = None) -> tuple[Check, ...]:
    """Every check of a host, under its variables; each one that is not ok has a remedy, and no other has."""
    observation = observe(PLUGINS, gpu="all", settings=settings, host=host)
    checks = examine(Subject(observation, PLUGINS, None if root is None else str(root)))
    assert [c for c in checks if (c.verdict is Verdict.OK) == bool(c.remedy) or not c.value] == []
    return checks


def problems(checks: tuple[Check, ...]) -> dict[str, Check]:
    """The checks that are not ok, by name."""
    return {check.name: check for check in checks if check.verdict is not Verdict.OK}


def put(root: Path, **files: str) -> Path:
    """Write files below a root; `__` in a name is a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# ---------------------------------------------------------------- simulated machines


def test_a_machine_where_nothing_is_wrong() -> None:
    """No verdict but ok."""
    checks = examined(FakeHost(H100).host)
    assert problems(checks) == {}
    assert {"set_mempolicy", "move_pages", "allowed", "nodes", "GPUs", "numactl", "plugins"} <= {c.name for c in checks}


@pytest.mark.parametrize(
    ("call", "name", "verdict", "remedy"),
    [
        ("set_affinity", "sched_setaffinity", Verdict.BLOCKED, "--cap-add SYS_NICE"),
        ("set_mempolicy", "set_mempolicy", Verdict.BLOCKED, "--cap-add SYS_NICE"),
        ("migrate_pages", "move_pages", Verdict.NOTE, "start the worker bound"),
    ],
)
def test_a_refused_call_is_named_with_its_errno(call: str, name: str, verdict: Verdict, remedy: str) -> None:
    """And no other call is."""
    fake = FakeHost(H100)
    fake.kernel.refuse(call, errno.EPERM)
    ((found, check),) = problems(examined(fake.host)).items()
    assert (found, check.verdict, check.value) == (name, verdict, "Operation not permitted [EPERM]")
    assert remedy in check.remedy


def test_probing_leaves_the_process_as_it_is() -> None:
    """Each call is given what is in force already."""
    fake = FakeHost(H100, threads=3, mask=CpuSet.parse("3-9"))
    fake.kernel.set_mempolicy(MemoryPolicy(MemoryMode.INTERLEAVE, NodeSet([0, 1])))
    fake.kernel.touch(1 << 20)
    before = dict(fake.kernel.masks), dict(fake.kernel.policies), dict(fake.kernel.pages_by_node)
    examined(fake.host)
    assert (dict(fake.kernel.masks), dict(fake.kernel.policies), dict(fake.kernel.pages_by_node)) == before


def test_a_policy_from_outside_is_a_reason_to_be_left_alone() -> None:
    """As `numactl --interleave` gives one; one that a bind has set is not from outside."""
    fake = FakeHost(H100)
    fake.kernel.set_mempolicy(MemoryPolicy(MemoryMode.INTERLEAVE, NodeSet([0, 1])))
    check = problems(examined(fake.host))["memory policy"]
    assert (check.verdict, check.value.split(",")[0]) == (Verdict.WARN, "interleave:0-1")
    bound = FakeHost(H100)
    bind(gpu=4, host=bound.host)
    assert Check("memory policy", "preferred:1") in examined(bound.host)


def test_a_cpuset_without_the_node_of_a_gpu() -> None:
    """Its CPUs and its memory, each with what widens it; the other GPUs' node is narrower, which is a note."""
    host = FakeHost(H100, allowed_cpus=CpuSet.parse("0-15"), allowed_nodes=NodeSet([0])).host
    cpus = [check for check in examined(host) if check.name == "allowed CPUs"]
    assert [(c.verdict, c.value.split()[0], c.value.split()[-1]) for c in cpus] == [
        (Verdict.BLOCKED, "none", "1"),
        (Verdict.NOTE, "0-15", "0"),
    ]
    assert "widen the cpuset" in cpus[0].remedy
    memory = problems(examined(host))["allowed memory"]
    assert (memory.verdict, memory.remedy) == (Verdict.BLOCKED, "widen cpuset.mems of its control group")


def test_the_remedy_for_memory_is_the_container_managers_command(tmp_path: Path) -> None:
    """Where the path of the control group shows the manager."""
    put(tmp_path, proc__self__cgroup=f"0::/system.slice/docker-{'ab12' * 16}.scope\n")
    host = FakeHost(H100, allowed_nodes=NodeSet([0])).host
    assert problems(examined(host, tmp_path))["allowed memory"].remedy == (
        "docker update --cpuset-mems 0-1 ab12ab12ab12"
    )


@pytest.mark.parametrize(
    ("machine", "name", "verdict", "value", "remedy"),
    [
        ("vm-two-nodes", "GPU node", Verdict.UNKNOWN, "0000:00:05.0, 0000:00:06.0, 0000:00:07.0", "AFFINITY_NODES"),
        ("gb200", "nodes without CPUs", Verdict.NOTE, "without CPUs", "AFFINITY_NODES"),
        ("vm-one-node", "nodes", Verdict.NOTE, "every CPU and page is local already", "AFFINITY_POLICY=exclusive"),
        ("pack:2 core:2", "GPUs", Verdict.NOTE, "none is visible", "--node N"),
    ],
)
def test_an_unusual_machine(machine: str, name: str, verdict: Verdict, value: str, remedy: str) -> None:
    """A GPU without a node, nodes without CPUs, a single node, no GPU."""
    check = problems(examined(FakeHost(machine).host))[name]
    assert check.verdict is verdict
    assert value in check.value
    assert remedy in check.remedy


def test_the_single_node_of_a_virtual_machine_may_hide_several(tmp_path: Path) -> None:
    """The flag `hypervisor` of /proc/cpuinfo shows it, as a word."""
    one = FakeHost("vm-one-node").host
    put(tmp_path, proc__cpuinfo="processor\t: 0\nflags\t\t: fpu hypervisor lahf\n\nprocessor\t: 1\n")
    assert "vNUMA" in problems(examined(one, tmp_path))["nodes"].remedy
    put(tmp_path, proc__cpuinfo="processor\t: 0\nmodel name\t: hypervisor\nflags\t\t: fpu\n")
    assert "AFFINITY_POLICY" in problems(examined(one, tmp_path))["nodes"].remedy


@pytest.mark.parametrize(("sockets", "most"), [((0, 0, 1, 1), "2"), ((0, 1, 2, 3), None)])
def test_several_nodes_in_a_socket_are_named(sockets: tuple[int, ...], most: str | None, tmp_path: Path) -> None:
    """Sub-NUMA clustering, by the socket of each node's first CPU; a node for each socket is none."""
    host = FakeHost("azure-ndv4").host
    for node, socket in zip(host.topology.nodes, sockets, strict=True):
        file = f"sys/devices/system/cpu/cpu{node.cpus.first()}/topology/physical_package_id"
        put(tmp_path, **{file: f"{socket}\n"})
    check = problems(examined(host, tmp_path)).get("sockets")
    assert (check and check.value.split()[2]) == most


@pytest.mark.parametrize(
    ("libnuma", "value", "remedy"),
    [
        ("libnuma.so.1 cannot be loaded (x: y): apt-get install libnuma1", "(x: y); a running", "apt-get install libn"),
        ("a reason in one piece", "a reason in one piece; a running process", "install libnuma"),
    ],
)
def test_a_missing_libnuma_is_what_is_lost(libnuma: str, value: str, remedy: str) -> None:
    """A note: the memory policy is then set by the system call."""
    check = problems(examined(FakeHost(H100, libnuma=libnuma).host))["libnuma"]
    assert check.verdict is Verdict.NOTE
    assert value in check.value
    assert check.remedy.startswith(remedy)


def test_a_missing_numactl_is_what_is_lost(tmp_path: Path) -> None:
    """On an empty PATH."""
    check = problems(examined(FakeHost(H100, environ={"PATH": str(tmp_path)}).host))["numactl"]
    assert check.value.startswith("numactl is not on PATH; workers inherit")
    assert check.remedy == "apt-get install numactl"


# ---------------------------------------------------------------- variables


def test_binding_that_is_switched_off_is_named_with_its_variable() -> None:
    """With its text, as the operator wrote it."""
    off = Settings.from_environ({"AFFINITY_AUTO": "no"})
    check = problems(examined(FakeHost(H100).host, settings=off))["automatic binding"]
    assert (check.value, check.remedy) == ("off (AFFINITY_AUTO=no)", "unset AFFINITY_AUTO")


def test_a_misspelled_variable_is_named() -> None:
    """It is ignored, with what was meant."""
    (check,) = problems(examined(FakeHost(H100, environ={"AFFINITY_POLCY": "socket"}).host)).values()
    assert (check.name, check.verdict) == ("settings", Verdict.WARN)
    assert "did you mean AFFINITY_POLICY?" in check.value


def test_each_collision_is_named_with_its_switch() -> None:
    """From the table of collisions, with the words of its row."""
    environ = {"OMP_PROC_BIND": "close", "KMP_AFFINITY": "compact"}
    checks = [check for check in examined(FakeHost(H100, environ=environ).host) if check.name == "collision"]
    assert [check.remedy for check in checks] == [found.collision.use for found in find(environ)]
    assert {check.value.split()[0] for check in checks} == {"OMP_PROC_BIND=close", "KMP_AFFINITY=compact"}


def test_workers_that_see_all_gpus_are_named() -> None:
    """Where a variable keeps the launcher from selecting a worker's own."""
    name = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
    assert problems(examined(FakeHost(H100, environ={name: "1"}).host))["GPU selection"].value.startswith(name)
    assert problems(examined(FakeHost(H100, environ={name: ""}).host)) == {}


# ---------------------------------------------------------------- files of the kernel

#: For each setting a value that weakens a binding, and one that does not.
VALUES = {
    "numa_balancing": ("1\n", "0\n"),
    "zone_reclaim_mode": ("1\n", "0\n"),
    "overcommit_memory": ("2\n", "1\n"),
    "transparent huge pages": ("always madvise [never]\n", "always [madvise] never\n"),
    "SMT": ("1\n", "0\n"),
    "offline CPUs": ("8-15\n", "\n"),
    "frequency governor": ("powersave\n", "performance\n"),
}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_a_setting_of_the_kernel(setting, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The value that weakens a binding, the one that does not, and a kernel without the file."""
    host = FakeHost(H100).host
    assert setting.name not in {check.name for check in examined(host, tmp_path)}
    harmful, harmless = VALUES[setting.name]
    put(tmp_path, **{setting.path: harmful})
    check = problems(examined(host, tmp_path))[setting.name]
    assert (check.verdict, check.remedy) == (setting.verdict, setting.remedy)
    assert check.value.startswith(harmful.strip())
    put(tmp_path, **{setting.path: harmless})
    assert problems(examined(host, tmp_path)) == {}
    assert setting.name in {check.name for check in examined(host, tmp_path)}


@pytest.mark.parametrize("text", ["1\x1b[2J", "secret " * 1000], ids=["escape", "long"])
def test_a_captured_file_may_hold_anything(text: str, tmp_path: Path) -> None:
    """Sixty characters of it are printed, and none that a terminal obeys."""
    put(tmp_path, **{SETTINGS[0].path: text})
    value = problems(examined(FakeHost(H100).host, tmp_path))[SETTINGS[0].name].value
    assert value.isprintable()
    assert value.count("secret") < 10


def node_files(root: Path, *, free: int, hit: int = 1000, foreign: int = 0) -> Path:
    """Two nodes of 100 GiB; node 1 has as many GiB free, and its counters."""
    for node, left in ((0, 50), (1, free)):
        text = f"Node {node} MemTotal: {100 << 20} kB\nNode {node} MemFree: {left << 20} kB\n"
        put(root, **{f"sys/devices/system/node/node{node}/meminfo": text})
    put(root, **{"sys/devices/system/node/node1/numastat": f"numa_hit {hit}\nnuma_miss 7\nnuma_foreign {foreign}\n"})
    return root


def test_a_node_that_is_nearly_full_is_a_warning(tmp_path: Path) -> None:
    """New pages would go to another node."""
    checks = examined(FakeHost(H100).host, node_files(tmp_path, free=4))
    (check,) = problems(checks).values()
    assert (check.name, check.verdict) == ("memory of node 1", Verdict.WARN)
    assert check.value.startswith("4.0 of 100.0 GiB free")
    assert "AFFINITY_MEMORY=bind" in check.remedy


def test_pages_that_went_elsewhere_are_a_note(tmp_path: Path) -> None:
    """A share of those that were wanted on the node; a few are none."""
    host = FakeHost(H100).host
    (check,) = problems(examined(host, node_files(tmp_path, free=40, foreign=250))).values()
    assert (check.verdict, check.value.split("; ")[1].split()[0]) == (Verdict.NOTE, "20%")
    assert problems(examined(host, node_files(tmp_path, free=40, foreign=3))) == {}


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("tmpfs /tmp tmpfs rw,noexec,nosuid 0 0", "/tmp", "noexec"),
        ("proc /proc proc rw,hidepid=2 0 0", "processes", "hidepid=2"),
        ("proc /proc proc rw,gid=4,hidepid=invisible 0 0", "processes", "hidepid=invisible"),
        ("tmpfs /tmp tmpfs rw,nosuid 0 0", "", ""),
        ("tmpfs /var/tmp tmpfs rw,noexec 0 0", "", ""),
        ("proc /proc proc rw,hidepid=0 0 0", "", ""),
    ],
)
def test_mount_options(line: str, name: str, value: str, tmp_path: Path) -> None:
    """Those that keep a script from running or a process from being seen, on the mounts that matter."""
    found = problems(examined(FakeHost(H100).host, put(tmp_path, proc__mounts=f"{line}\n")))
    assert [(check.name, value in check.value) for check in found.values()] == ([(name, True)] if name else [])


@pytest.mark.parametrize(
    ("file", "environ", "kind"),
    [
        (".dockerenv", {}, "Docker"),
        ("run/.containerenv", {}, "Podman"),
        ("etc/hostname", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "Kubernetes"),
        ("etc/hostname", {}, None),
    ],
)
def test_the_kind_of_container(file: str, environ: dict[str, str], kind: str | None, tmp_path: Path) -> None:
    """By the file or the variable that each of them leaves."""
    checks = examined(FakeHost(H100, environ=environ).host, put(tmp_path, **{file: ""}))
    assert next((check.value for check in checks if check.name == "container"), None) == kind


# ---------------------------------------------------------------- GPUs and their driver


def test_a_missing_driver_library_is_named_with_its_remedy(tmp_path: Path) -> None:
    """NVML, asked by name: the GPUs of the files are found all the same."""
    pytest.importorskip("pynvml", reason="nvidia-ml-py is optional")
    if Path("/dev/nvidiactl").exists():
        pytest.skip("an NVIDIA driver is installed here")
    checks = examined(FakeHost(H100).host, settings=Settings(devices=("nvml", "pci")))
    check = problems(checks)["devices"]
    assert check.value == "nvml: NVML Shared Library Not Found"
    assert check.remedy.startswith("no libnvidia-ml.so.1: install the driver")
    assert "8 on nodes 0-1" in {check.value for check in checks if check.name == "GPUs"}


def test_mig_devices_are_counted(tmp_path: Path) -> None:
    """By the real pynvml on a driver library of our own."""
    pytest.importorskip("pynvml", reason="nvidia-ml-py is optional")
    library = driver.build(tmp_path / "library")
    reported = driver.describe(machines.get("vm-one-gpu"), "mig 0 MIG-aaaa1111-0000", "mig 0 MIG-aaaa2222-0000")
    tree = trees.write(machines.get("vm-one-gpu"), tmp_path / "root")
    environ = driver.environment(library, reported, tmp_path / "child")
    done = affinity("doctor", "--root", tree, environ={**environ, "AFFINITY_DEVICES": "nvml"})
    assert "GPUs: 1 on nodes 0, 2 MIG devices" in done.stdout, done.stderr


# ---------------------------------------------------------------- this machine, for real


def refused(*calls: str, number: str = "EPERM") -> dict[str, dict[str, str]]:
    """The checks of the command under a seccomp filter, by name."""
    done = affinity("doctor", "--json", prefix=seccomp.prefix(number, *calls))
    assert done.returncode == 0, done.stderr
    return {check["name"]: check for check in schemas.load("doctor", done.stdout)["checks"]}


filtered = pytest.mark.skipif(platform.machine() not in seccomp.NUMBERS, reason="the filter's numbers are not known")


@filtered
@pytest.mark.parametrize("number", ["EPERM", "ENOSYS"])
def test_under_dockers_profile_memory_is_blocked_and_the_filter_is_named(number: str) -> None:
    """CPUs are not, and pages cannot be moved."""
    found = refused(*seccomp.DOCKER, number=number)
    assert found["set_mempolicy"]["verdict"] == "blocked"
    assert found["set_mempolicy"]["value"].endswith(f"[{number}], under a seccomp filter")
    assert ("SYS_NICE" if number == "EPERM" else "CONFIG_NUMA") in found["set_mempolicy"]["remedy"]
    assert (found["move_pages"]["verdict"], found["sched_setaffinity"]["verdict"]) == ("note", "ok")


@filtered
def test_each_call_is_tried_by_itself() -> None:
    """A filter for one of them alone."""
    for call, verdict in (("sched_setaffinity", "blocked"), ("move_pages", "note"), ("mbind", None)):
        found = refused(call)
        others = {"sched_setaffinity", "set_mempolicy", "move_pages"} - {call}
        assert {found[name]["verdict"] for name in others} == {"ok"}
        assert verdict is None or found[call]["verdict"] == verdict


@filtered
@pytest.mark.parametrize("call", ["sched_setaffinity", "set_mempolicy", "get_mempolicy", "move_pages"])
def test_a_filter_that_kills_is_found_by_a_fork(call: str) -> None:
    """As systemd's SystemCallFilter= does by default: the command goes on, and the other calls are tried."""
    found = refused(call, number="KILL")
    name = "set_mempolicy" if call == "get_mempolicy" else call
    assert found[name]["verdict"] == "blocked"
    assert "SIGSYS" in found[name]["value"]
    assert "SystemCallFilter=@resources" in found[name]["remedy"]
    assert {found[other]["verdict"] for other in {"sched_setaffinity", "set_mempolicy", "move_pages"} - {name}} == {
        "ok"
    }


STATE = """
import os, sys
from affinity.cli import main
from affinity.kernel.linux import THIS_PROCESS as kernel
before = kernel.get_affinity(), kernel.get_mempolicy()
try: main(["doctor"])
except SystemExit: pass
print(before == (kernel.get_affinity(), kernel.get_mempolicy()), *map(str, before))
"""


def test_the_command_leaves_its_process_as_it_is(python) -> None:  # type: ignore[no-untyped-def]
    """A mask and a policy that are not the default, which the command reports as set from outside."""
    cpu = min(os.sched_getaffinity(0))
    done = python(STATE, prefix=("taskset", "-c", str(cpu), "numactl", "--interleave=0"))
    assert done.stdout.splitlines()[-1] == f"True {cpu} interleave:0"
    assert "warn     memory policy: interleave:0, set from outside" in done.stdout


def test_a_proc_of_another_pid_namespace_is_named() -> None:
    """Threads cannot be listed there."""
    outside = ("unshare", "--pid", "--fork")
    if subprocess.run([*outside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare --pid is refused here: it needs CAP_SYS_ADMIN")
    done = affinity("doctor", prefix=outside)
    assert f"blocked  threads: of another PID namespace [{errno.errorcode[errno.EOPNOTSUPP]}]" in done.stdout
    assert "unshare --mount-proc" in done.stdout


def test_a_broken_plugin_is_named_with_its_owner() -> None:
    """With the remedy that its error has; others still load."""
    done = affinity("doctor", PYTHONPATH=str(ROOT / "tests/dists/missing_dependency"))
    assert "warn     plugin: plugin 'missing-dependency'" in done.stdout
    assert "-> install that, or uninstall broken-dep" in done.stdout


# ---------------------------------------------------------------- engines


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """The shape of SGLang with one function gone and another's parameters exchanged."""
    shape = tmp_path / "shape"
    for file in SHAPE.rglob("*.py"):
        text = file.read_text()
        if file.name == "numa_utils.py":
            assert "def configure_subprocess(server_args, gpu_id: int)" in text
            text = text.replace("def configure_subprocess(server_args, gpu_id: int)", "def configure_subprocess(\n"
                                "    gpu_id: dict[str, int],  # a note:\n    server_args,\n)")  # fmt: skip
        text = text.replace("def _create_scheduler_actor(", "def _make_scheduler_actor(")
        copy = shape / file.relative_to(SHAPE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
    return shape


def test_an_engine_has_the_functions_that_its_plugin_replaces(moved: Path) -> None:
    """Read from its files; one that is missing and one that takes others are a warning each."""
    assert "ok       sglang: of unknown version: its 6 functions" in affinity("doctor", PYTHONPATH=str(SHAPE)).stdout
    done = affinity("doctor", PYTHONPATH=str(moved))
    lines = [line for line in done.stdout.splitlines() if line.startswith("warn     sglang: ")]
    assert len(lines) == 2
    assert "configure_subprocess takes (gpu_id, server_args), (server_args, gpu_id) was expected" in lines[0]
    assert "_create_scheduler_actor is missing" in lines[1]
    assert "-> upgrade numa-affinity, or start the engine with `affinity run`" in done.stdout


# ---------------------------------------------------------------- the command


def test_the_worst_comes_first_and_strict_fails_on_it() -> None:
    """With the status 1; without the option 0."""
    machine = ("doctor", "--synthetic", "pack:2 core:2 gpu:1", "--allowed-cpus", "0-1", "--allowed-nodes", "0-1")
    done = called(*machine)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "blocked  allowed CPUs: none of 2-3 on node 1"
    assert done.stdout.splitlines()[1].strip() == "-> widen the cpuset, container or batch limit"
    assert done.stdout.splitlines()[-1].startswith("1 blocked, ")
    assert called(*machine, "--strict").returncode == 1
    assert called("doctor", "--synthetic", "pack:2 core:2 gpu:1", "--strict").returncode == 0


@pytest.mark.parametrize("verdict", Verdict)
def test_strict_fails_on_these_verdicts(verdict: Verdict) -> None:
    """Not on a note."""
    assert verdict.is_problem == (verdict.value in ("blocked", "warn", "unknown"))


def test_the_json_has_every_check() -> None:
    """Its four keys, and null for no remedy."""
    found = printed("doctor", "--synthetic", "pack:2 core:2")
    assert found["version"] == 1
    assert {"name": "nodes", "value": "2 with CPUs (0-1)", "verdict": "ok", "remedy": None} in found["checks"]
    assert {tuple(check) for check in found["checks"]} == {("name", "value", "verdict", "remedy")}


CALLS = {"sched_setaffinity", "set_mempolicy", "move_pages", "threads", "memory policy", "numactl", "libnuma"}


def test_of_another_machine_there_is_what_its_files_show(tmp_path: Path) -> None:
    """No call is tried, this environment shows nothing of it; its archive has the same settings as the tree."""
    root = Path(trees.write(SMALL, tmp_path / "root"))
    for setting in SETTINGS:
        put(root, **{setting.path: VALUES[setting.name][0]})
    of_tree = printed("doctor", "--root", str(root), KMP_AFFINITY="compact")["checks"]
    names = [check["name"] for check in of_tree]
    assert {setting.name for setting in SETTINGS} <= set(names)
    assert not {*CALLS, "collision"} & set(names)
    write_archive(str(tmp_path / "m.tar.gz"), str(root))
    of_archive = printed("doctor", "--root", str(tmp_path / "m.tar.gz"))["checks"]
    assert of_archive == [check for check in of_tree if not check["name"].startswith("memory of node")]


# ---------------------------------------------------------------- the page

HOWTO = (ROOT / "docs/howto/why-is-binding-refused.md").read_text()


COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", HOWTO, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_of_the_page_runs(line: str, tmp_path: Path) -> None:
    """Here, by a shell."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path}
    done = subprocess.run(
        ["sh", "-ec", line], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def names_that_checks_have() -> set[str]:
    """As the code has them: in a Check's first argument, or in one of the tables."""
    files = [*(ROOT / "affinity/doctor").glob("*.py"), ROOT / "affinity/integrations/doctor.py"]
    text = "".join(file.read_text() for file in files)
    named = set(re.findall(r'(?:Check|probe)\(\s*"([^"]+)"', text))
    return named | set(VALUES) | {"numactl", "libnuma"}


def test_the_page_has_every_check() -> None:
    """And no other."""
    table = HOWTO.partition("## All checks")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)) == names_that_checks_have() | {
        "memory of node N",
        "sglang, vllm",
    }
