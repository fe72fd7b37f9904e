"""Variables that plugins declare (tests/dists/acme), and AFFINITY_ variables that nothing reads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import called, printed

import affinity
from affinity import Host, Settings, SettingsError
from affinity.plugins import Plugins

ACME = str(Path(__file__).parent / "dists" / "acme")
TWO = "pack:2 core:4 gpu:1"

#: The device provider of acme-numa is asked where none is named.
ONLY_PCI = {"AFFINITY_DEVICES": "pci"}

#: What Kubernetes sets in each pod beside a Service named `affinity`. Source: "Service", Environment variables.
SERVICE = {
    "AFFINITY_SERVICE_HOST": "10.0.0.11",
    "AFFINITY_SERVICE_PORT": "443",
    "AFFINITY_SERVICE_PORT_HTTPS": "443",
    "AFFINITY_PORT": "tcp://10.0.0.11:443",
    "AFFINITY_PORT_443_TCP": "tcp://10.0.0.11:443",
    "AFFINITY_PORT_443_TCP_PROTO": "tcp",
    "AFFINITY_PORT_443_TCP_PORT": "443",
    "AFFINITY_PORT_443_TCP_ADDR": "10.0.0.11",
}


def notes(environ: dict[str, str]) -> tuple[str, ...]:
    """The notes of a plan under this environment."""
    settings = Settings.from_environ(environ)
    return affinity.plan(gpu=1, host=Host.synthetic(TWO), settings=settings, launch_mode="ray").launch.notes


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the distribution `acme-numa`, fresh for each test."""
    monkeypatch.syspath_prepend(ACME)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "acme_numa", raising=False)


def test_the_variables_of_a_service_named_affinity_are_one_note() -> None:
    """Named, without a guess at what was meant; the plan is as without them."""
    (note,) = notes(SERVICE)
    assert note == f"{', '.join(sorted(SERVICE))}: no setting of this package or of an installed plugin; ignored"


def test_a_misspelt_variable_is_a_note_with_its_near_miss() -> None:
    """Beside those that resemble nothing; also where a node is given instead of a GPU."""
    near = "AFFINITY_STRATEGI is not a setting and is ignored; did you mean AFFINITY_STRATEGY?"
    assert notes({"AFFINITY_STRATEGI": "auto", "AFFINITY_PORT": "1"})[0] == near
    settings = Settings.from_environ({"AFFINITY_STRATEGI": "auto"})
    assert affinity.plan(node=1, host=Host.synthetic(TWO), settings=settings).launch.notes == (near,)


def test_under_required_an_unknown_variable_is_an_error() -> None:
    """A setting that was misspelt is a setting that is not in force."""
    with pytest.raises(SettingsError, match=r"AFFINITY_MEMROY .*did you mean AFFINITY_MEMORY\?.*unset or correct"):
        notes({"AFFINITY_MEMROY": "bind", "AFFINITY_ENFORCE": "required"})


def test_settings_given_in_code_ask_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """So an unknown variable there is neither a note nor an error."""
    monkeypatch.setenv("AFFINITY_MEMROY", "bind")
    planned = affinity.plan(node=0, settings=Settings(required=True))
    assert not any("AFFINITY_MEMROY" in note for note in planned.launch.notes)


def test_every_command_prints_the_warning() -> None:
    """As a note, with status 0."""
    for command in (("show",), ("plan",), ("explain", "--gpu", "0")):
        done = called(*command, "--synthetic", TWO, AFFINITY_MEMROY="bind")
        assert (done.returncode, done.stdout.count("did you mean AFFINITY_MEMORY?")) == (0, 1), done.stderr


def test_a_variable_of_a_plugin_that_is_not_used_is_not_parsed(acme: None) -> None:
    """Its name is looked up among those that the plugin declares."""
    assert notes({"AFFINITY_ACME_NUMA_DEPTH": "no number", **ONLY_PCI}) == ()


def test_no_plugin_is_loaded_where_no_variable_has_its_prefix(acme: None) -> None:
    """Also for a variable that is not known."""
    assert len(notes({"AFFINITY_ACME_DEPTH": "2", **ONLY_PCI})) == 1
    assert "acme_numa" not in sys.modules


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("AFFINITY_ACME_NUMA_DEPHT", "is not a setting and is ignored; did you mean AFFINITY_ACME_NUMA_DEPTH?"),
        ("AFFINITY_ACME_NUMA_SPAR", "is not a setting and is ignored; did you mean AFFINITY_ACME_NUMA_SPARE?"),
        ("AFFINITY_ACME_NUMA_RADIUS", ": no setting of this package or of an installed plugin; ignored"),
        ("AFFINITY_NUMACTL_DEPTH", ": no setting of this package or of an installed plugin; ignored"),
    ],
)
def test_a_variable_that_a_plugin_does_not_declare_is_a_note(acme: None, name: str, meant: str) -> None:
    """With the near miss among those of every plugin with its prefix; the last plugin has no variables."""
    (note,) = notes({name: "1", **ONLY_PCI})
    assert note.removeprefix(name).strip() == meant
    with pytest.raises(SettingsError, match=name):
        notes({name: "1", "AFFINITY_ENFORCE": "required", **ONLY_PCI})


def test_a_plugin_that_cannot_be_loaded_may_declare_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is raised where it is used, and no warning is made of what is unknown."""
    monkeypatch.syspath_prepend(str(Path(ACME).parent / "import_error"))
    (broken,) = {p.name for p in Plugins().strategies.list() if "import raised" in p.error}
    assert notes({f"AFFINITY_{broken.upper().replace('-', '_')}_DEPTH": "1", **ONLY_PCI}) == ()


def test_a_strategy_reads_its_variable(acme: None) -> None:
    """Its default where it is unset, and from settings that are built in code."""
    host = Host.synthetic(TWO)
    for options, depth in (({}, 3), ({"AFFINITY_ACME_NUMA_DEPTH": "5"}, 5)):
        settings = Settings(strategies=("acme-numa",), options=options)
        planned = affinity.plan(gpu=1, host=host, settings=settings, launch_mode="ray")
        assert Plugins().strategies.get("acme-numa").supports(planned.observation).reason == f"depth {depth}"


def test_a_policy_reads_its_variable(acme: None) -> None:
    """With the precedence of any other: the parent's over the environment's."""
    host = Host.synthetic(TWO)
    environ = {"AFFINITY_POLICY": "acme-numa", "AFFINITY_ACME_NUMA_SPARE": "4"}
    for parent, cpus in ((None, "5-7"), ("4-5", "6-7"), ("", "4-7")):
        differences = {} if parent is None else {"AFFINITY_ACME_NUMA_SPARE": parent}
        settings = Settings.from_environ(environ, parent=differences)
        placement = affinity.plan(gpu=1, host=host, settings=settings, launch_mode="ray").placement
        assert placement is not None
        assert str(placement.cpus) == cpus


def test_a_device_provider_reads_its_variable(acme: None) -> None:
    """The settings are passed to it."""
    host, settings = Host.synthetic(TWO), Settings(options={"AFFINITY_ACME_NUMA_SOCKET": "/tmp/acme"})
    found = affinity.plan(gpu=0, host=host, settings=settings, launch_mode="ray").launch.notes
    assert found == ("no daemon at /tmp/acme: start acmed",)


@pytest.mark.parametrize(
    ("used", "variable"),
    [
        ({"AFFINITY_STRATEGY": "acme-numa"}, "AFFINITY_ACME_NUMA_DEPTH"),
        ({"AFFINITY_STRATEGY": "acme-numa,libnuma"}, "AFFINITY_ACME_NUMA_DEPTH"),
        ({"AFFINITY_POLICY": "acme-numa"}, "AFFINITY_ACME_NUMA_SPARE"),
    ],
)
def test_a_malformed_value_of_a_plugin_that_is_used_is_an_error(
    acme: None, used: dict[str, str], variable: str
) -> None:
    """As for a built-in variable: name, value, what is accepted."""
    with pytest.raises(SettingsError, match=rf"{variable}='deep' does not parse.*expected a "):
        notes({**used, variable: "deep"})


def test_explain_shows_the_variables_of_the_plugins_in_use(acme: None) -> None:
    """With value and source, as built-in ones; no others."""
    environ = {"AFFINITY_DEVICES": "pci", "AFFINITY_ACME_NUMA_SPARE": "0"}
    asked = ("explain", "--synthetic", TWO, "--gpu", "0", "--launch-mode", "ray")
    reported = printed(*asked, "--policy", "acme-numa", **environ)
    (spare,) = [s for s in reported["settings"] if s["setting"] == "options"]
    assert (spare["variable"], spare["value"]) == ("AFFINITY_ACME_NUMA_SPARE", "0")
    assert spare["decided_by"] == "AFFINITY_ACME_NUMA_SPARE=0"
    assert "CPUs that no worker gets" in called(*asked, "--policy", "acme-numa", **environ).stdout
    assert not [s for s in printed(*asked, **environ)["settings"] if s["setting"] == "options"]


def test_strategies_shows_the_variables_of_every_plugin(acme: None) -> None:
    """Also of those that are not used; a malformed value is an error in its row."""
    environ = {"AFFINITY_ACME_NUMA_DEPTH": "deep"}
    listed = printed("strategies", "--synthetic", TWO, **environ)
    assert next(p for p in listed["strategies"] if p["name"] == "numactl")["options"] == []
    by_group = [p["options"][0] for g in ("strategies", "policies") for p in listed[g] if p["name"] == "acme-numa"]
    assert [(o["variable"], o["value"]) for o in by_group] == [
        ("AFFINITY_ACME_NUMA_DEPTH", None),
        ("AFFINITY_ACME_NUMA_SPARE", ""),
    ]
    assert "AFFINITY_ACME_NUMA_DEPTH='deep' does not parse: expected a number" in by_group[0]["error"]
    shown = called("strategies", "--synthetic", TWO, **environ).stdout
    assert "levels of the tree that are walked" in shown
