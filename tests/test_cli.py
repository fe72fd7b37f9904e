"""The command on machines of every kind: what it prints, and how it states that it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import schemas
from commands import affinity, called, printed

from affinity.testing import machines, trees

TWO = "pack:2 core:2 pu:2 gpu:1"


@pytest.fixture
def dgx(tmp_path: Path) -> str:
    """The sysfs tree of a machine with two nodes and eight GPUs."""
    return trees.write(machines.get("dgx-h100"), tmp_path)


def test_plan_has_a_row_for_each_gpu_of_a_tree(dgx: str) -> None:
    """Node, CPUs and memory beside each GPU, and the strategy that a spawned worker gets."""
    rows = printed("plan", "--root", dgx, "--gpu", "all")
    assert [row["node"] for row in rows] == [0] * 4 + [1] * 4
    machine = machines.get("dgx-h100")
    for row, gpu in zip(rows, machine.gpus, strict=True):
        assert row["gpu"]["pci_bus_id"] == str(gpu.pci)
        assert row["cpus"] == str(machine.online_of(next(n for n in machine.nodes if n.id == row["node"])))
        assert row["memory"] == {"mode": "preferred", "nodes": [row["node"]]}
        assert (row["strategy"], row["launch_mode"], row["problem"]) == ("numactl", "spawn", None)


def test_the_json_of_a_plan_is_stable() -> None:
    """Version 1, key for key: a change here breaks programs that read it."""
    row = printed("plan", "--synthetic", TWO, "--gpu", "1", "--policy", "node")[0]
    row["notes"] = []
    assert row == {
        "version": 1,
        "gpu": {
            "name": "0000:02:00.0",
            "pci_bus_id": "0000:02:00.0",
            "uuid": None,
            "vendor": "nvidia",
            "model": "",
            "node": 1,
            "node_reason": "from PCI numa_node",
        },
        "gpus": [row["gpu"]],
        "references": ["1"],
        "node": 1,
        "nodes": [1],
        "cpus": "4-7",
        "memory": {"mode": "preferred", "nodes": [1]},
        "placement_reason": row["placement_reason"],
        "strategy": "numactl",
        "fallbacks": ["inherit"],
        "reason": "launch mode spawn: affinity starts this process",
        "problem": None,
        "policy": "node",
        "launch_mode": "spawn",
        "launch_reason": "assumed for another machine",
        "launcher": None,
        "notes": [],
    }
    assert "node 1" in row["placement_reason"]


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (
            "show",
            "version origin detail online_cpus allowed_cpus allowed_nodes packages nodes caches gpus nics notes",
        ),
        ("strategies", "version strategies policies devices launchers"),
        (
            "explain",
            "version gpu gpus references node nodes cpus memory placement_reason strategy fallbacks reason problem "
            "policy launch_mode launch_reason launcher notes rules skipped settings collisions",
        ),
    ],
)
def test_the_keys_of_each_json_are_stable(command: str, keys: str) -> None:
    """The top level of every shape, in order."""
    assert list(printed(command, "--synthetic", TWO)) == keys.split()


def test_allowed_cpus_and_nodes_cut_the_plan() -> None:
    """What a worker there may not use is in no placement."""
    rows = printed("plan", "--synthetic", TWO, "--allowed-cpus", "0-1,6", "--allowed-nodes", "0")
    assert [row["cpus"] for row in rows] == ["0-1", "6"]
    assert [row["memory"] for row in rows] == [{"mode": "preferred", "nodes": [0]}, {"mode": "none", "nodes": []}]


def test_a_captured_machines_limits_are_read_from_its_proc(tmp_path: Path) -> None:
    """`Cpus_allowed_list` and `Mems_allowed_list` of DIR/proc/self/status."""
    root = trees.write(machines.get("dgx-h100"), tmp_path)
    (tmp_path / "proc/self/status").write_text("Cpus_allowed_list:\t0-3\nMems_allowed_list:\t0\n")
    rows = printed("plan", "--root", root)
    assert [row["cpus"] for row in rows] == ["0-3"] * 4 + [None] * 4
    assert all("no CPU of node 1" in row["problem"] and row["strategy"] == "noop" for row in rows[4:])


def test_a_plan_for_another_machine_obeys_the_flags_but_not_the_devices_of_this_one() -> None:
    """Settings come from the environment of the command; CUDA_VISIBLE_DEVICES is about this machine."""
    rows = printed(
        "plan", "--synthetic", TWO, AFFINITY_MEMORY="bind", AFFINITY_STRATEGY="inherit", CUDA_VISIBLE_DEVICES="1"
    )
    assert [row["memory"] for row in rows] == [{"mode": "bind", "nodes": [0]}, {"mode": "bind", "nodes": [1]}]
    assert [row["strategy"] for row in rows] == ["inherit", "inherit"]


@pytest.mark.parametrize(("mode", "strategy"), [("ray", "libnuma"), ("command", "numactl"), ("inline", "libnuma")])
def test_the_launch_mode_decides_the_strategy(mode: str, strategy: str) -> None:
    """`--launch-mode` plans for a worker that is started another way."""
    assert {row["strategy"] for row in printed("plan", "--synthetic", TWO, "--launch-mode", mode)} == {strategy}


def test_show_shows_of_packages_nodes_distances_and_gpus(dgx: str) -> None:
    """Everything a placement could depend on."""
    shown = printed("show", "--root", dgx)
    assert [p["nodes"] for p in shown["packages"]] == [[0], [1]]
    assert shown["nodes"][0]["distances"] == {"0": 10, "1": 21}
    assert [g["node"] for g in shown["gpus"]] == [0] * 4 + [1] * 4
    assert all(g["node_reason"] and g["visible"] for g in shown["gpus"])


def test_show_shows_what_is_allowed_here() -> None:
    """Under taskset, on this very machine."""
    cpu = min(os.sched_getaffinity(0))
    shown = schemas.load("show", affinity("show", "--json", prefix=("taskset", "-c", str(cpu))).stdout)
    assert (shown["origin"], shown["allowed_cpus"]) == ("live", str(cpu))


def test_show_has_a_table_of_a_machine_with_cpuless_nodes(tmp_path: Path) -> None:
    """Grace Hopper: the GPU's memory is a node without CPUs, and text is no markup."""
    done = called("show", "--root", trees.write(machines.get("gb200"), tmp_path))
    assert done.returncode == 0, done.stderr
    for word in ("Packages", "Nodes", "Distances", "GPUs", "nvidia"):
        assert word in done.stdout


def test_explain_gives_each_rules_verdict_and_what_decided() -> None:
    """The whole table; exactly one line applies; each setting names its variable."""
    reported = printed("explain", "--synthetic", TWO, "--gpu", "0", "--launch-mode", "ray", SGLANG_NUMA_BIND_V2="0")
    assert [r["rule"] for r in reported["rules"] if r["applies"]] == [4]
    assert reported["strategy"] == "legacy"
    decided = {s["variable"]: s["decided_by"] for s in reported["settings"]}
    assert decided["SGLANG_NUMA_BIND_V2"] == "SGLANG_NUMA_BIND_V2=0"
    assert decided["AFFINITY_POLICY"] is None


def test_explain_shows_that_the_variable_wins_over_its_alias() -> None:
    """AFFINITY_POLICY=node against SGLANG_SET_CPU_AFFINITY=1."""
    reported = printed("explain", "--synthetic", TWO, "--gpu", "0", AFFINITY_POLICY="node", SGLANG_SET_CPU_AFFINITY="1")
    setting = next(s for s in reported["settings"] if s["variable"] == "AFFINITY_POLICY")
    assert (setting["value"], setting["decided_by"]) == ("node", "AFFINITY_POLICY=node")


def test_explain_prints_the_table() -> None:
    """For people: settings, launch, placement, rules, and the choice."""
    done = called("explain", "--synthetic", TWO, "--gpu", "1")
    assert done.returncode == 0, done.stderr
    for word in ("AFFINITY_MEMORY", "launch mode spawn", "0000:02:00.0", "CPUs 4-7", "rule", "strategy numactl"):
        assert word in done.stdout


def test_strategies_lists_what_is_installed() -> None:
    """Distribution, version, launch modes, and whether each can act."""
    listed = printed("strategies")
    strategies = {s["name"]: s for s in listed["strategies"] if s["distribution"] == "numa-affinity"}
    assert set(strategies) == {"noop", "numactl", "libnuma", "legacy", "inherit", "external"}
    assert strategies["numactl"]["launch_modes"] == ["command", "spawn"]
    assert strategies["noop"]["can_act"] is True
    assert "node" in {p["name"] for p in listed["policies"]}
    assert "pci" in {d["name"] for d in listed["devices"]}
    launchers = {p["name"]: p for p in listed["launchers"] if p["distribution"] == "numa-affinity"}
    assert set(launchers) == {"torchrun", "deepspeed", "openmpi", "hydra", "flux", "slurm", "multiprocessing", "ray"}
    assert (launchers["hydra"]["launch_modes"], launchers["hydra"]["distance"]) == (["mpi"], 20)


def test_strategies_states_why_numactl_cannot_act(tmp_path: Path) -> None:
    """With the remedy."""
    listed = printed("strategies", PATH=str(tmp_path))
    numactl = next(s for s in listed["strategies"] if s["name"] == "numactl")
    assert numactl["can_act"] is False
    assert "apt-get install numactl" in numactl["reason"]


def test_strategies_shows_a_broken_plugin_with_its_error(tmp_path: Path) -> None:
    """A distribution whose module does not import is a line in the table, and in no program's way."""
    info = tmp_path / "broken_one-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-one\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[affinity.strategies]\nbroken = no_such_module:Thing\n")
    listed = schemas.load("strategies", affinity("strategies", "--json", PYTHONPATH=str(tmp_path)).stdout)
    broken = next(s for s in listed["strategies"] if s["name"] == "broken")
    assert (broken["distribution"], broken["version"], broken["can_act"]) == ("broken-one", "1.5", False)
    assert "no_such_module" in broken["error"]
    planned = schemas.load("plan", affinity("plan", "--synthetic", TWO, "--json", PYTHONPATH=str(tmp_path)).stdout)
    assert planned[0]["strategy"] == "numactl"


BAD = [
    (("plan", "--synthetic", "pack:2 cor:4"), {}, 2, "'cor'"),
    (("plan", "--synthetic", TWO, "--gpu", "9"), {}, 2, "GPU '9' is not here"),
    (("plan", "--synthetic", TWO, "--root", "/"), {}, 2, "--root and --synthetic"),
    (("plan", "--synthetic", TWO, "--allowed-cpus", "3-1"), {}, 2, "--allowed-cpus: '3-1'"),
    (("plan", "--synthetic", TWO, "--launch-mode", "rya"), {}, 2, "launch mode 'rya'"),
    (("plan", "--synthetic", TWO, "--policy", "nowhere"), {}, 2, "no plugin 'nowhere'"),
    (("plan", "--allowed-cpus", "0"), {}, 2, "--root, --machine or --synthetic"),
    (("plan", "--root", "/nowhere-at-all"), {}, 2, "/nowhere-at-all"),
    (("plan", "--no-such-option"), {}, 2, "--no-such-option"),
    (("no-such-command",), {}, 2, "no-such-command"),
    (("explain", "--gpu", "0", "--node", "0"), {}, 2, "--gpu and --node"),
    (("explain", "--node", "63"), {}, 2, "node 63 is not on this machine"),
    (("explain", "--node", "x"), {}, 2, "x"),
    (("show",), {"AFFINITY_MEMORY": "prefered"}, 2, "did you mean preferred"),
    (("show",), {"AFFINITY_MEMROY": "bind", "AFFINITY_ENFORCE": "required"}, 2, "did you mean AFFINITY_MEMORY"),
    (("plan", "--synthetic", TWO), {"AFFINITY_STRATEGY": "nosuch"}, 2, "'nosuch'"),
    (("plan", "--synthetic", TWO, "--launch-mode", "command"), {"AFFINITY_STRATEGY": "libnuma"}, 3, "mode command"),
    (
        ("plan", "--synthetic", TWO, "--allowed-cpus", "0-1"),
        {"AFFINITY_ENFORCE": "required"},
        3,
        "no CPU of node 1",
    ),
    (("plan", "--synthetic", TWO, "--allowed-cpus", ""), {"AFFINITY_ENFORCE": "required"}, 3, "allowed"),
]


@pytest.mark.parametrize(("arguments", "environ", "status", "printed"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_what_cannot_be_done_is_one_message_and_a_status(
    arguments: tuple[str, ...], environ: dict[str, str], status: int, printed: str
) -> None:
    """On stderr, with nothing on stdout and never a traceback."""
    done = called(*arguments, **environ)
    assert done.returncode == status, done.stdout + done.stderr
    assert printed in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_a_malformed_file_of_a_tree_is_named(dgx: str) -> None:
    """The path, and what stood in it."""
    path = Path(dgx) / "sys/devices/system/node/node1/cpulist"
    path.write_text("4-,7\n")
    done = called("plan", "--root", dgx)
    assert done.returncode == 2
    assert done.stderr.startswith(f"affinity: {path}: ")
    assert "4-" in done.stderr


def test_a_machine_without_a_gpu_has_no_row() -> None:
    """An empty list for programs, words for people."""
    assert printed("plan", "--synthetic", "pack:2 core:2") == []
    assert "no GPU" in called("plan", "--synthetic", "pack:2 core:2").stdout


def test_the_operators_nodes_make_stand_ins() -> None:
    """AFFINITY_NODES where no GPU is found: a row for each, without a PCI address."""
    rows = printed("plan", "--synthetic", "pack:2 core:2", AFFINITY_NODES="1,0")
    assert [(row["gpu"]["pci_bus_id"], row["node"]) for row in rows] == [(None, 1), (None, 0)]


def test_a_command_loads_nothing_of_the_others() -> None:
    """`affinity run` imports neither tables nor click nor another command."""
    program = (
        "import sys; sys.argv = ['affinity', 'run', '--gpu', 'no-such', '--', 'true']\n"
        "from affinity.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: assert e.code == 2, e.code\n"
        "print(*sorted(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    others = {f"affinity.cli.{n}" for n in ("run", "show", "plan", "explain", "demo", "strategies", "_output")}
    assert not loaded & (others | {"click", "rich", "ray", "pynvml", "numa", "torch", "multiprocessing"})


def test_every_command_has_help() -> None:
    """Also those of other files in the folder: each names itself, and its options."""
    listed = called("--help")
    names = [line.split()[0] for line in listed.stdout.partition("Commands:")[2].strip().splitlines() if line.strip()]
    assert {"show", "plan", "explain", "run", "strategies", "demo"} <= set(names)
    for name in names:
        done = called(name, "--help")
        assert done.returncode == 0, done.stderr
        assert f"affinity {name}" in done.stdout


def test_json_goes_to_a_reader_that_stops_early() -> None:
    """A closed pipe is no traceback."""
    command = f"{sys.executable} -m affinity plan --synthetic 'pack:2 numa:8 core:8 gpu:4' --json | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout + "]") == []
    assert "Traceback" not in done.stderr
