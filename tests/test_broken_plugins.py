"""Distributions that are broken, each in one way (tests/dists): data for whatever looks, an error for whatever asks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import schemas

import affinity
from affinity import BindError, CpuSet, Host, LaunchMode, PluginError, Settings
from affinity.api import exec_command
from affinity.devices.inventory import Inventory
from affinity.launchers import Launch
from affinity.observation import Observation
from affinity.plugins import Plugins
from affinity.registry import UNREADABLE
from affinity.selection.rules import supports_launch
from affinity.testing import Executed, FakeHost

DISTS = Path(__file__).parent / "dists"
ZOO = os.pathsep.join(sorted(str(path) for path in DISTS.iterdir() if path.is_dir()))
TWO = "pack:2 core:4 gpu:1"

#: Folder, name of the plugin, and what its error states: whose it is, what is wrong and what to do.
BROKEN = [
    (
        "import_error",
        "import-error",
        "broken-import 1.0 .*its import raised RuntimeError: driver 535 or later is needed",
    ),
    ("exits", "exits", "broken-exit 1.0 .*its import raised SystemExit: no licence found"),
    ("asserts", "asserts", "broken-assert 1.0 .*its import raised AssertionError: arithmetic"),
    (
        "missing_dependency",
        "missing-dependency",
        "needs module 'hwloc_bindings_that_none_has', which is not installed; install that, or uninstall broken-dep",
    ),
    ("not_a_subclass", "not-a-subclass", "class Strategy is no subclass of AffinityStrategy"),
    ("not_a_subclass", "function", "it is a function, expected a subclass of AffinityStrategy"),
    ("abstract_left", "abstract-left", "class Strategy does not implement supports"),
    ("raises_when_built", "raises-when-built", "building it raised ConnectionError: the licence server does not ans"),
    ("no_modes", "no-modes", "its launch_modes is None, expected a frozenset of LaunchMode"),
    ("no_modes", "wrong-modes", "its launch_modes is {'spawn'}, expected a frozenset of LaunchMode"),
    (
        "newer_interface",
        "newer-interface",
        "written for version 99 of AffinityStrategy, the installed numa-affinity has version 1: upgrade numa-affinity "
        "or install an older broken-version",
    ),
    ("newer_interface", "version-in-words", "its interface_version is '1.0', expected a number"),
    (
        "wrong_options",
        "wrong-prefix",
        "broken-options 1.0 .*its option AFFINITY_DEPTH must begin with AFFINITY_WRONG_PREFIX_",
    ),
    ("wrong_options", "no-options", r"its options is \['AFFINITY_NO_OPTIONS_DEPTH'\], expected a tuple of Option"),
    ("nowhere", "no-module", "points nowhere, there is no module 'broken_nowhere_to_be_found'; reinstall or uninstall"),
    ("nowhere", "no-class", "points nowhere, there is no 'Strategy' in module 'broken_nowhere'; reinstall or unin"),
    ("nowhere", "no-grammar", r"\(broken_nowhere:Strategy!\) is broken: expected `module:Class` in its entry point"),
    ("unreadable", "?", r"entry_points.txt of broken-text cannot be read \(.*\): reinstall or uninstall broken-text"),
]


def use(monkeypatch: pytest.MonkeyPatch, *folders: str) -> None:
    """Install these broken distributions for one test."""
    for folder in folders:
        monkeypatch.syspath_prepend(str(DISTS / folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.parametrize(("folder", "name", "words"), BROKEN, ids=[name for _, name, _ in BROKEN])
def test_a_broken_strategy_is_data_until_it_is_asked_for(
    folder: str, name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the catalog with its error; no program's trouble that does not name it; that very error for that does."""
    use(monkeypatch, folder)
    (info,) = [i for i in Plugins().strategies.list() if i.name == name]
    assert re.search(words, info.error)

    host = Host.synthetic(TWO)
    assert affinity.plan(gpu=1, host=host, settings=Settings(), launch_mode="ray").selection.strategy == "libnuma"
    with pytest.raises(PluginError, match=re.escape(info.error)):
        Plugins().strategies.get(name)
    if name != UNREADABLE:  # which no setting can name
        with pytest.raises(PluginError, match=re.escape(info.error)):
            affinity.plan(gpu=1, host=host, settings=Settings(strategies=(name,)), launch_mode="ray")


def test_of_several_named_a_broken_one_is_passed_over_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is an order of preference."""
    use(monkeypatch, "import_error")
    settings = Settings(strategies=("import-error", "no-such-plugin", "libnuma"))
    selection = affinity.plan(gpu=1, host=Host.synthetic(TWO), settings=settings, launch_mode="ray").selection
    assert selection.strategy == "libnuma"
    skipped = dict(selection.skipped)
    assert "driver 535" in skipped["import-error"]
    assert "no plugin 'no-such-plugin'" in skipped["no-such-plugin"]


def test_two_distributions_with_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither wins: both are named, in the catalog and to whatever asks; everyone else goes on."""
    use(monkeypatch, "twin_a", "twin_b")
    strategies = Plugins().strategies
    words = r"claimed by twin-a \(twin_a:Strategy\) and twin-b \(twin_b:Strategy\): uninstall one of them"
    errors = {i.distribution: i.error for i in strategies.list() if i.name == "twin"}
    assert set(errors) == {"twin-a", "twin-b"}
    assert all(re.search(words, error) for error in errors.values())
    with pytest.raises(PluginError, match=words):
        strategies.get("twin")
    assert strategies.get("noop")


def test_alone_each_of_the_two_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it was the name, and nothing else."""
    use(monkeypatch, "twin_b")
    observation = Observation(Host.synthetic(TWO), Launch(LaunchMode.RAY))
    assert supports_launch(Plugins().strategies.get("twin"), observation).reason.startswith("the second")


def test_a_claim_on_a_built_in_name_is_never_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in acts; the claimant is listed as broken."""
    use(monkeypatch, "claims_builtin")
    strategies = Plugins().strategies
    assert type(strategies.get("numactl")).__module__ == "affinity_plugins.strategies.numactl"
    errors = {i.distribution: i.error for i in strategies.list() if i.name == "numactl"}
    assert errors == {
        "numa-affinity": "",
        "broken-claim": "claims the name 'numactl' of a built-in plugin: not used; rename it",
    }
    assert "broken_claim" not in sys.modules


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("misanswers", "its supports() returned True, expected Support"),
        ("stumbles", "its supports() raised KeyError: 'gpu'"),
    ],
)
def test_a_supports_that_is_no_answer_is_a_no(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named alone it is an error with that reason; in a list it is passed over."""
    use(monkeypatch, "liar")
    host = Host.synthetic(TWO)
    with pytest.raises(BindError, match=re.escape(words)):
        affinity.plan(gpu=1, host=host, settings=Settings(strategies=(name,)), launch_mode="ray")
    settings = Settings(strategies=(name, "libnuma"))
    assert affinity.plan(gpu=1, host=host, settings=settings, launch_mode="ray").selection.strategy == "libnuma"


def test_a_strategy_that_lies_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reports a thousand bound threads; the report has what the kernel shows, and the difference."""
    use(monkeypatch, "liar")
    fake = FakeHost(TWO)
    report = affinity.bind(gpu=1, host=fake.host, settings=Settings(strategies=("liar",)))
    assert report.requested is not None
    assert report.requested.cpus == CpuSet.parse("4-7")
    assert report.strategy == "liar"
    assert not report.satisfied
    assert report.observed.threads == {fake.kernel.thread_id(): CpuSet.parse("0-7")}
    assert [(d.action, d.remedy) for d in report.degradations] == [("strategy liar", "report it to its author")]
    assert "reported success at CPUs 4-7" in str(report)
    assert "the kernel shows CPUs 0-7 and memory policy default" in str(report)


def test_a_lie_is_an_error_where_binding_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the worker goes on."""
    use(monkeypatch, "liar")
    settings = Settings(strategies=("liar",), required=True)
    with pytest.raises(BindError, match=r"required, but not in force: strategy liar: it reported success"):
        affinity.bind(gpu=1, host=FakeHost(TWO).host, settings=settings)


def test_a_lie_is_not_trusted_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left behind is taken for no binding: an honest strategy then does the work."""
    use(monkeypatch, "liar")
    fake = FakeHost(TWO)
    affinity.bind(gpu=1, host=fake.host, settings=Settings(strategies=("liar",)))
    report = affinity.bind(gpu=1, host=fake.host, settings=Settings(strategies=("libnuma",)))
    assert (report.satisfied, report.already_bound) == (True, False)


def test_a_command_that_a_liar_did_not_bind_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The note in the environment is trusted only where the mask is what it states."""
    use(monkeypatch, "liar")
    fake = FakeHost(TWO)
    planned = affinity.plan(gpu=1, host=fake.host, settings=Settings(strategies=("liar",)), launch_mode="command")
    with pytest.raises(Executed) as became:
        exec_command(["server"], planned)
    server = FakeHost(TWO, environ=became.value.environ)
    report = affinity.bind(gpu=1, host=server.host)
    assert (report.strategy, report.satisfied, report.already_bound) == ("libnuma", True, False)


def test_a_lie_on_the_real_kernel_is_caught(python) -> None:  # type: ignore[no-untyped-def]
    """As on the simulated one: the memory policy that was asked for is not there."""
    program = (
        "import affinity\n"
        "report = affinity.bind(settings=affinity.Settings(strategies=('liar',), nodes=(0,), devices=('pci',)))\n"
        "print(report.strategy, report.satisfied, report.degradations[-1])"
    )
    printed = python(program, PYTHONPATH=str(DISTS / "liar")).stdout
    assert printed.startswith("liar False strategy liar: it reported success at CPUs")
    assert "memory policy default; report it to its author" in printed


def test_a_broken_policy_is_data_until_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with strategies; the default policy still places."""
    use(monkeypatch, "policies_and_devices")
    host = Host.synthetic(TWO)
    assert affinity.plan(gpu=0, host=host, settings=Settings(), launch_mode="ray").placement
    with pytest.raises(PluginError, match=r"plugin .thoughtless. of broken-others 1.0 .*does not implement place"):
        affinity.plan(gpu=0, host=host, settings=Settings(policy="thoughtless"), launch_mode="ray")


def test_device_providers_that_fail_leave_the_answer_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One raises what it may, one what it may not, one when asked if it can, one is not there: all are reported."""
    use(monkeypatch, "policies_and_devices")
    host = FakeHost("dgx-h100").host
    found = Inventory(host, Settings(), {}, Plugins().devices)
    assert len(found.machine) == 8
    reported = "\n".join(found.notes)
    assert "device provider Falls raised IndexError: a mistake of its author; report it to its author" in reported
    assert "there is no 'Absent' in module 'broken_others'" in reported
    assert len(Inventory(host, Settings(devices=("refuses", "pci")), {}, Plugins().devices).visible) == 8


def test_a_device_provider_that_is_named_and_broken_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was asked for."""
    use(monkeypatch, "policies_and_devices")
    with pytest.raises(PluginError, match="there is no 'Absent'"):
        _ = Inventory(FakeHost("dgx-h100").host, Settings(devices=("absent",)), {}, Plugins().devices).machine


def test_with_all_of_them_installed_the_command_goes_on() -> None:
    """`affinity strategies` shows every one with its error; a plan is made as if they were not there."""
    environ = {**os.environ, "PYTHONPATH": ZOO, "PYTHONDONTWRITEBYTECODE": "1"}

    def affinity_prints(*arguments: str) -> str:
        command = [sys.executable, "-m", "affinity", *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=60).stdout

    listed = schemas.load("strategies", affinity_prints("strategies", "--json", "--synthetic", TWO))
    shown = {(p["name"], p["distribution"]): p for p in listed["strategies"]}
    for _, name, words in BROKEN:
        (plugin,) = [p for (n, _), p in shown.items() if n == name]
        assert plugin["can_act"] is False
        assert re.search(words, plugin["error"])
    assert shown["stumbles", "liar"]["reason"] == "its supports() raised KeyError: 'gpu'"
    assert shown["libnuma", "numa-affinity"]["error"] is None
    stumbling = next(p for p in listed["devices"] if p["name"] == "stumbles")
    assert (stumbling["can_act"], stumbling["error"]) == (False, None)
    assert schemas.load("plan", affinity_prints("plan", "--json", "--synthetic", TWO))[0]["strategy"] == "numactl"


def test_every_distribution_is_in_a_test() -> None:
    """A folder that no test names would prove nothing."""
    source = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    folders = [path.name for path in DISTS.iterdir() if path.is_dir()]
    assert [name for name in folders if f'"{name}"' not in source] == []
