"""The pytest plugin, and the contract seen from outside: a third party's tests, run in a pytest of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from affinity.testing import machines

#: Strategies that break the contract, each in one way, and the case that must notice.
BROKEN = {
    "Lies": ("def bind(self, placement, observation): return Outcome()", "test_bind_puts_the_placement_in_force"),
    "Swallows": (
        """
    def bind(self, placement, observation):
        try:
            return bind_process(placement, observation.host)
        except (OSError, BindError):
            return Outcome()
    """,
        "test_a_refused_call_raises_an_error",
    ),
    "Widens": (
        """
    def bind(self, placement, observation):
        if placement.cpus:
            observation.host.kernel.set_affinity(0, observation.host.allowed_cpus)
        return bind_process(placement, observation.host)
    """,
        "test_bind_touches_no_cpu_outside_the_placement",
    ),
    "Tramples": (
        """
    def bind(self, placement, observation):
        for tid in observation.host.kernel.threads():
            if placement.cpus:
                observation.host.kernel.set_affinity(tid, placement.cpus)
        return bind_process(placement, observation.host)
    """,
        "test_bind_skips_threads_with_a_mask_of_their_own",
    ),
    "BindsItsParent": (
        """
    bind = lambda self, placement, observation: bind_process(placement, observation.host)
    def start(self, placement, observation):
        observation.host.kernel.set_affinity(0, placement.cpus)
        return WorkerStart()
    """,
        "test_a_started_worker_is_bound_and_its_parent_is_unchanged",
    ),
    "ForgetsOnError": (
        """
    bind = lambda self, placement, observation: bind_process(placement, observation.host)
    def start(self, placement, observation):
        @contextmanager
        def around():
            kernel = observation.host.kernel
            before = kernel.get_affinity()
            kernel.set_affinity(0, placement.cpus)
            yield
            kernel.set_affinity(0, before)
        return WorkerStart(around=around)
    """,
        "test_a_start_that_fails_leaves_the_parent_unchanged",
    ),
    "KeepsOnePlacement": (
        """
    bind = lambda self, placement, observation: bind_process(placement, observation.host) if placement.memory else 0
    def start(self, placement, observation):
        self.placement = placement
        return WorkerStart(around=lambda: thread_placed(self.placement, observation.host.kernel))
    """,
        "test_one_start_serves_several_threads_at_once",
    ),
    "GoesAround": (
        """
    def bind(self, placement, observation):
        os.sched_setaffinity(0, {0})
        return bind_process(placement, observation.host)
    """,
        "test_bind_puts_the_placement_in_force",
    ),
    "BreaksCommands": (
        """
    def start(self, placement, observation):
        return WorkerStart(prefix=("taskset", "-c", str(placement.cpus), "sh", "-c"))
    """,
        "test_a_command_is_executed_unchanged_and_bound",
    ),
    "Raises": (
        "def supports(self, observation): raise RuntimeError('no')",
        "test_supports_returns_a_reason_and_changes_nothing",
    ),
}

#: The answer of a `supports` that depends on something else than the observation, and what the failure has to name.
ASKS = {
    "ItsVariable": ("not os.environ.get('ACME_OFF')", "for ACME_OFF in os.environ"),
    "Path": ("bool(shutil.which('sh'))", "for PATH in os.environ"),
    "ItsMask": ("len(os.sched_getaffinity(0)) > 1", "on one CPU: ask observation.host.allowed_cpus"),
    "MaskInProc": ("'1' in open('/proc/self/status').read()", "supports() opened /proc/self/status"),
    "Sys": ("bool(os.listdir('/sys/devices'))", "supports() opened /sys/devices"),
    "Processes": ("len(os.listdir('/proc')) > 5", "supports() opened /proc:"),
    "NoKernel": ("len(observation.host.kernel.threads()) > 0", "threads: this topology is not this machine"),
}

#: What a `bind` changes besides, and what the failure has to name.
LEAVES = {
    "Directory": ("os.chdir('/')", "current directory of the process that runs the tests: "),
    "Descriptor": ("os.open('/dev/null', os.O_RDONLY)", "'/dev/null'} after"),
    "Handler": (
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        "signal handlers of the process that runs the tests: ",
    ),
    "RealVariable": ("os.environ.update(ACME_ON='1')", "environment variables of the process that runs the tests: "),
    "Priority": ("os.nice(1)", "nice value of the process that runs the tests: "),
    "Scheduling": ("os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))", "scheduling policy of the process"),
    "OtherProcess": (
        "[p.set_affinity(0, CpuSet('0')) for p in observation.host.kernel.processes() if p.command() == ['server']]",
        "CPU masks of process ",
    ),
}

HEAD = """
import os, shutil, signal
from contextlib import contextmanager
import pytest
from affinity import *
from affinity import BindError, CpuSet, Host, LaunchMode
from affinity.kernel import *
from affinity.launchers import *
from affinity.policies import *
from affinity.strategies import *
from affinity.testing import PolicyContract, StrategyContract

class Base(AffinityStrategy):
    launch_modes = frozenset({LaunchMode.SPAWN, LaunchMode.INLINE, LaunchMode.COMMAND})
    def supports(self, observation): return Support.yes("always")
    def start(self, placement, observation):
        return WorkerStart(prefix=("taskset", "-c", str(placement.cpus)) if placement.cpus else ())
"""


def run_pytest(directory: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A test file, in a pytest that finds this package only as an installed plugin."""
    (directory / "test_it.py").write_text(text)
    argv = [sys.executable, "-m", "pytest", "-q", "-rA", "--color=no", "-p", "no:cacheprovider", *options]
    return subprocess.run(
        [*argv, f"--rootdir={directory}", "test_it.py"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def cases(meant: Mapping[str, str]) -> str:
    """What pytest's -k has to select for each class the case that is meant for it: all others would take minutes."""
    return " or ".join(f"(Test{name} and {case})" for name, case in meant.items())


def test_every_broken_strategy_is_noticed_by_the_case_that_is_meant_for_it(tmp_path: Path) -> None:
    """A contract that nothing can fail would promise nothing."""
    text = HEAD
    for name, (body, _) in BROKEN.items():
        text += f"\nclass {name}(Base):\n    {body.strip()}\n"
        text += f"@pytest.mark.affinity_machines('dgx-h100')\nclass Test{name}(StrategyContract):\n"
        text += f"    def make(self): return {name}()\n"
    meant = {name: case for name, (_, case) in BROKEN.items()}
    printed = run_pytest(tmp_path, text, "-k", cases(meant)).stdout
    failed = set(re.findall(r"^(?:FAILED|ERROR) test_it\.py::Test(\w+)::(\w+)", printed, re.MULTILINE))
    missed = {name: case for name, case in meant.items() if (name, case) not in failed}
    assert missed == {}, printed[-3000:]


def run_strategies(directory: Path, bodies: Mapping[str, str], case: str) -> str:
    """What pytest prints of one case for strategies with these methods."""
    text = HEAD
    for name, body in bodies.items():
        text += f"\nclass {name}(Base):\n{body}\n"
        text += f"class Test{name}(StrategyContract):\n    def make(self): return {name}()\n"
    return run_pytest(directory, text, "-k", f"{case} and dgx-h100").stdout


def failure(printed: str, name: str) -> str:
    """The section of a class's failure."""
    return printed.partition(f"_ Test{name}.test_")[2].partition("\n____")[0]


def test_a_supports_that_asks_anything_but_the_observation_is_named(tmp_path: Path) -> None:
    """A variable that no machine has set, too; an answer for the observation passes, wherever it is asked."""
    asks = {**ASKS, "Observation": ("'PATH' in observation.settings.decided_by or True", "")}
    bodies = {
        name: f"    def supports(self, observation): return Support({answer}, 'because')"
        for name, (answer, _) in asks.items()
    }
    printed = run_strategies(tmp_path, bodies, "test_supports_answers_for_the_observation_alone")
    missed = {name: words for name, (_, words) in ASKS.items() if words not in failure(printed, name)}
    assert missed == {}, printed[-3000:]
    assert len(re.findall("^PASSED .*TestObservation", printed, re.MULTILINE)) == 1


def test_what_undo_leaves_of_a_bind_is_named(tmp_path: Path) -> None:
    """A variable of the simulated process is none of it: undo restores it."""
    leaves = {**LEAVES, "Variable": ("observation.host.kernel.environ.update(ACME_ON='1', PATH='/acme')", "")}
    bodies = {
        name: f"    def bind(self, placement, observation):\n        {statement}\n"
        "        return bind_process(placement, observation.host)"
        for name, (statement, _) in leaves.items()
    }
    printed = run_strategies(tmp_path, bodies, "test_undo_leaves_nothing_of_a_bind")
    missed = {name: words for name, (_, words) in LEAVES.items() if words not in failure(printed, name)}
    if os.getpriority(os.PRIO_PROCESS, 0) == 19:  # the highest: nice(2) leaves it there
        missed.pop("Priority")
    assert missed == {}, printed[-3000:]
    assert len(re.findall("^PASSED .*TestVariable", printed, re.MULTILINE)) == 1


def test_what_attach_changes_besides_masks_is_named(tmp_path: Path) -> None:
    """As a second process that it binds too."""
    body = """
    launch_modes = frozenset({LaunchMode.ATTACH})
    def bind(self, placement, observation):
        for process in observation.host.kernel.processes():
            process.set_affinity(process.pid, placement.cpus)
        return bind_from_outside(placement, observation)"""
    printed = run_strategies(tmp_path, {"All": body}, "test_attach_changes_the_masks_of_the_other_process")
    assert "CPU masks: " in failure(printed, "All")
    assert "CPU masks of process " in failure(printed, "All")


def test_every_broken_policy_is_noticed(tmp_path: Path) -> None:
    """One that ignores what is allowed, one that remembers, one that asks the kernel, one that shares."""
    bodies = {
        "Wide": ("Placement(host.topology.online, None, reason='all')", "test_a_narrow_cpuset_is_respected"),
        "Empty": ("Placement(CpuSet(), None, reason='none')", "test_every_gpu_gets_allowed_cpus"),
        "Asks": ("Placement(host.kernel.get_affinity(), None, reason='mine')", "test_it_is_pure"),
        "Shares": ("Placement(host.allowed_cpus, None, reason='all')", "test_shares_do_not_overlap"),
        "Remembers": (
            "calls.append(1) or Placement(CpuSet([list(host.allowed_cpus)[len(calls) % 2]]), None, reason='next')",
            "test_the_placement_does_not_depend",
        ),
    }
    text = HEAD + "calls = []\n"
    for name, (answer, _) in bodies.items():
        text += f"class {name}(PlacementPolicy):\n    def place(self, observation):\n"
        text += "        host, launch, settings = observation.host, observation.launch, observation.settings\n"
        text += f"        return {answer}\n"
        text += f"@pytest.mark.affinity_machines('dgx-h100')\nclass Test{name}(PolicyContract):\n"
        text += f"    disjoint = True\n    def make(self): return {name}()\n"
    printed = run_pytest(tmp_path, text, "-k", cases({name: case for name, (_, case) in bodies.items()})).stdout
    failed = re.findall(r"^FAILED test_it\.py::Test(\w+)::(\w+)", printed, re.MULTILINE)
    missed = {n: c for n, (_, c) in bodies.items() if not any(f == n and t.startswith(c) for f, t in failed)}
    assert missed == {}, printed[-3000:]


def test_fixtures_run_a_test_once_for_each_machine_of_its_marker(tmp_path: Path) -> None:
    """The closest marker decides; without one, every named machine."""
    text = """
import pytest
pytestmark = pytest.mark.affinity_machines("gh200")
def test_near(machine): assert machine.name == "gh200"
@pytest.mark.affinity_machines("dgx-h100", "mi250x")
def test_two(fake_host): assert len(fake_host.topology.pci_devices) >= 8
"""
    printed = run_pytest(tmp_path, text, "--strict-markers").stdout
    assert sorted(re.findall(r"PASSED test_it.py::(\S+)", printed)) == [
        "test_near[gh200]",
        "test_two[dgx-h100]",
        "test_two[mi250x]",
    ]
    printed = run_pytest(tmp_path, "def test_all(machine): assert machine.source").stdout
    assert f"{len(machines.names())} passed" in printed


def test_a_failure_draws_the_machine_and_its_process(tmp_path: Path) -> None:
    """So that a report from CI can be understood without running anything."""
    text = """
import pytest
@pytest.mark.affinity_machines("power9-ac922")
def test_it(fake_host):
    fake_host.kernel.set_affinity(0, fake_host.topology.nodes[1].cpus)
    assert False
"""
    printed = run_pytest(tmp_path, text).stdout
    assert "affinity: the machine" in printed
    assert "node 8: CPUs 88-175 of package 8" in printed
    assert "node 255: no CPUs, 16 GiB" in printed
    assert re.search(r"threads \d+: CPUs 88-175", printed)


def test_a_fixture_of_the_same_name_in_another_project_is_its_own(tmp_path: Path) -> None:
    """The plugin is loaded in every pytest run of its environment, and must not disturb one."""
    text = """
import pytest
@pytest.fixture
def machine(): return "mine"
def test_mine(machine): assert machine == "mine"
@pytest.mark.parametrize("machine", [1, 2])
def test_parametrised(machine): assert machine in (1, 2)
"""
    done = run_pytest(tmp_path, text)
    assert "3 passed" in done.stdout, done.stdout


def test_the_plugin_costs_a_foreign_pytest_run_next_to_nothing() -> None:
    """Importing it loads none of what this package needs for its work."""
    heavy = [
        "attrs",
        "stevedore",
        "numa",
        "click",
        "rich",
        "ray",
        "pynvml",
        "affinity.host",
        "affinity.testing.machines",
    ]
    text = f"import sys, affinity.testing.pytest_plugin; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.affinity_machines("dgx-h100")
def test_the_plugin_is_installed_here(machine: machines.Machine) -> None:
    """Through its entry point, not through this project's configuration."""
    assert machine.name == "dgx-h100"


HOWTO = Path(__file__).parent.parent / "docs/howto/test-without-the-hardware.md"


def test_the_how_tos_test_file_passes(tmp_path: Path) -> None:
    """All its Python, as one file, in the order of the page."""
    blocks = re.findall(r"```python\n(.*?)```", HOWTO.read_text(), re.DOTALL)
    done = run_pytest(tmp_path, "\n".join(blocks))
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(re.findall(r"^PASSED", done.stdout, re.MULTILINE)) > 20


def test_the_how_tos_commands_run(tmp_path: Path) -> None:
    """On this very machine."""
    (block,) = re.findall(r"```sh\n(.*?)```", HOWTO.read_text(), re.DOTALL)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    argv = ["sh", "-ec", block]
    done = subprocess.run(
        argv, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
