"""The rule table: which strategy, for which flags and which launch, and why not the others."""

from __future__ import annotations

import pytest

import affinity
from affinity import BindError, CpuSet, Host, LaunchMode, PlacementError, PluginError, Settings
from affinity.selection.rules import RULES

TWO = "numa:2 core:2 gpu:1"
ONE = "numa:1 core:2 gpu:2"


def selection(environ: dict[str, str], mode: str, machine: str = TWO, **more: object):  # type: ignore[no-untyped-def]
    """The selection for GPU 0 of a machine."""
    host = more.pop("host", None) or Host.synthetic(machine)
    gpu = more.pop("gpu", 0)
    settings = Settings.from_environ(environ)
    return affinity.plan(gpu=gpu, host=host, launch_mode=mode, settings=settings, **more).selection  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environ", "mode", "machine", "strategy", "rule"),
    [
        ({"AFFINITY_STRATEGY": "noop"}, "spawn", TWO, "noop", 1),
        ({"AFFINITY_STRATEGY": "numactl,libnuma"}, "ray", TWO, "libnuma", 1),
        ({"AFFINITY_STRATEGY": "libnuma", "AFFINITY_AUTO": "0"}, "ray", TWO, "libnuma", 1),
        ({"AFFINITY_STRATEGY": "libnuma"}, "ray", ONE, "libnuma", 1),
        ({"AFFINITY_AUTO": "0"}, "spawn", TWO, "noop", 2),
        ({"AFFINITY_AUTO": "off", "AFFINITY_NODES": "1,0"}, "spawn", TWO, "numactl", 5),
        ({}, "spawn", ONE, "noop", 3),
        ({"AFFINITY_NODES": "0,0"}, "spawn", ONE, "numactl", 5),
        ({"SGLANG_NUMA_BIND_V2": "0"}, "spawn", TWO, "legacy", 4),
        ({"SGLANG_NUMA_BIND_V2": "0"}, "ray", TWO, "legacy", 4),
        ({"SGLANG_NUMA_BIND_V2": "0"}, "ray", ONE, "noop", 3),
        ({"SGLANG_NUMA_BIND_V2": "1"}, "ray", TWO, "libnuma", 6),
        ({}, "spawn", TWO, "numactl", 5),
        ({}, "command", TWO, "numactl", 5),
        ({}, "ray", TWO, "libnuma", 6),
        ({}, "torchrun", TWO, "libnuma", 6),
        ({}, "mpi", TWO, "libnuma", 6),
        ({}, "slurm", TWO, "libnuma", 6),
        ({}, "inline", TWO, "libnuma", 6),
    ],
)
def test_the_table(environ: dict[str, str], mode: str, machine: str, strategy: str, rule: int) -> None:
    """Flags, launch mode and machine on the left; strategy and the rule that chose it on the right."""
    chosen = selection(environ, mode, machine)
    assert chosen.strategy == strategy
    assert [v.rule for v in chosen.verdicts if v.applies] == [rule]


def test_every_rule_has_a_verdict_in_words() -> None:
    """Also those after the one that decided."""
    verdicts = selection({}, "ray").verdicts
    assert [v.rule for v in verdicts] == list(range(1, len(RULES) + 1))
    assert all(v.condition and v.reason for v in verdicts)


def test_a_node_the_operator_names_is_bound_even_where_it_is_the_only_one() -> None:
    """`affinity run --node 0` on a desktop does what it states."""
    assert selection({}, "command", ONE, gpu=None, node=0).strategy == "numactl"


def test_a_single_named_strategy_that_cannot_is_an_error_naming_why() -> None:
    """numactl cannot wrap a process that already runs."""
    with pytest.raises(BindError, match=r"numactl: does not serve launch mode ray \(serves command, spawn\)"):
        selection({"AFFINITY_STRATEGY": "numactl"}, "ray")


def test_an_unknown_strategy_is_an_error_naming_the_installed() -> None:
    """Alone, or misspelled; in a list of preferences the next one is taken, with the reason."""
    for names in ("numctl", "numctl,libnuma"):
        with pytest.raises(PluginError, match=rf"AFFINITY_STRATEGY={names}: no plugin 'numctl'.*did you mean numactl"):
            selection({"AFFINITY_STRATEGY": names}, "ray")
    with pytest.raises(PluginError, match=r"no plugin 'vendor'.*noop, numactl$"):
        selection({"AFFINITY_STRATEGY": "vendor"}, "ray")
    chosen = selection({"AFFINITY_STRATEGY": "vendor,libnuma"}, "ray")
    assert chosen.strategy == "libnuma"
    assert "no plugin 'vendor'" in chosen.reason


def test_a_gpu_whose_node_may_not_be_used_leaves_the_worker_alone() -> None:
    """A cpuset that excludes the GPU's node: reported with the numbers; an error where binding is required."""
    host = Host.synthetic(TWO, allowed_cpus=CpuSet([2, 3]))
    chosen = selection({}, "ray", host=host)
    assert chosen.strategy == "noop"
    assert "no CPU of node 0 (0-1) is allowed here (allowed: 2-3)" in chosen.reason
    with pytest.raises(PlacementError, match="widen the cpuset"):
        selection({"AFFINITY_ENFORCE": "required"}, "ray", host=host)


def test_no_gpu_at_all_leaves_the_worker_alone() -> None:
    """With the reason."""
    assert selection({}, "ray", "numa:2 core:2", gpu=None).reason == "no GPU's node is known"


def test_numactl_missing_falls_to_inherit() -> None:
    """On this machine, with a PATH that has no numactl."""
    from affinity.kernel.linux import LinuxKernel

    class Pathless(LinuxKernel):
        @property
        def environ(self) -> dict[str, str]:
            return {"PATH": "/nonexistent:.:"}

    chosen = selection({}, "spawn", host=Host.live(Pathless()), gpu=None, node=0)
    assert chosen.strategy == "inherit"
    assert "numactl: numactl is not on PATH: apt-get install numactl" in chosen.reason


def test_modes_of_the_table_are_the_modes_there_are() -> None:
    """No launch mode is forgotten: each one gets a strategy that acts."""
    for mode in LaunchMode:
        assert selection({}, mode.value).strategy in ("numactl", "libnuma", "external")
