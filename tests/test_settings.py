"""The operator's flags: every value, every alias, every mistake."""

from __future__ import annotations

import re

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity import CpuSet, Settings, SettingsError
from affinity.kernel import MemoryMode
from affinity.variables import ALIASES, VARIABLES, Variable

read = Settings.from_environ


def test_no_flag_means_the_documented_defaults() -> None:
    """Automatic strategy, policy node, preferred memory, best effort, pages moved."""
    assert read({}) == Settings()
    assert (Settings().policy, Settings().memory, Settings().required) == ("node", MemoryMode.PREFERRED, False)


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("AFFINITY_STRATEGY", "auto", "strategies", ()),
        ("AFFINITY_STRATEGY", "libnuma, noop", "strategies", ("libnuma", "noop")),
        ("AFFINITY_POLICY", "core-complex", "policy", "core-complex"),
        ("AFFINITY_MEMORY", "BIND", "memory", MemoryMode.BIND),
        ("AFFINITY_MEMORY", "none", "memory", None),
        ("AFFINITY_NODES", "0,0, 1,1", "nodes", (0, 0, 1, 1)),
        ("AFFINITY_ENFORCE", "required", "required", True),
        ("AFFINITY_ENFORCE", "best-effort", "required", False),
        ("AFFINITY_MIGRATE", "off", "migrate", False),
        ("AFFINITY_DEVICES", "pci", "devices", ("pci",)),
        ("AFFINITY_CPUS", "0-1|4", "cpus", (CpuSet([0, 1]), CpuSet([4]))),
        ("AFFINITY_SMT", "one", "smt", "one"),
        ("AFFINITY_SCOPE", "socket", "scope", "socket"),
        ("AFFINITY_RESERVE", "2", "reserve", 2),
        ("AFFINITY_AUTOSTART", "1", "autostart", True),
        ("SGLANG_NUMA_BIND_V2", "0", "v2", False),
        ("SGLANG_CRASH_ON_NUMA_BIND_FAILURE", "1", "required", True),
        ("SGLANG_SET_CPU_AFFINITY", "1", "policy", "even"),
    ],
)
def test_each_variable_sets_its_field(variable: str, text: str, field: str, value: object) -> None:
    """And the variable that decided is kept."""
    settings = read({variable: text})
    assert getattr(settings, field) == value
    assert settings.decided_by == {field: f"{variable}={text}"}


@pytest.mark.parametrize("word", ["1", "true", "TRUE", "Yes", "on"])
def test_true_words(word: str) -> None:
    """Booleans in any case."""
    assert read({"AFFINITY_AUTO": word}).auto


@pytest.mark.parametrize("word", ["0", "false", "No", "OFF"])
def test_false_words(word: str) -> None:
    """Booleans in any case."""
    assert not read({"AFFINITY_AUTO": word}).auto


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        ({"AFFINITY_ENFORCE": "best-effort", "SGLANG_CRASH_ON_NUMA_BIND_FAILURE": "1"}, "required", False),
        ({"AFFINITY_POLICY": "node", "SGLANG_SET_CPU_AFFINITY": "1"}, "policy", "node"),
        ({"AFFINITY_STRATEGY": "auto", "SGLANG_NUMA_BIND_V2": "0"}, "v2", True),
    ],
)
def test_ours_wins_over_the_alias(environ: dict[str, str], field: str, value: object) -> None:
    """Each pair that states the opposite."""
    assert getattr(read(environ), field) == value


def test_sglangs_switch_for_its_own_binding_is_no_setting() -> None:
    """SGLANG_AUTO_NUMA_BIND=0: SGLang does not bind."""
    assert read({"SGLANG_AUTO_NUMA_BIND": "0"}) == Settings()


def test_an_alias_that_is_off_changes_nothing() -> None:
    """SGLANG_SET_CPU_AFFINITY=0 is not a policy."""
    assert read({"SGLANG_SET_CPU_AFFINITY": "0"}) == Settings()


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({"AFFINITY_MEMORY": "prefered"}, ["AFFINITY_MEMORY='prefered'", "interleave", "did you mean preferred"]),
        ({"AFFINITY_AUTO": "maybe"}, ["AFFINITY_AUTO='maybe'", "true, false"]),
        ({"AFFINITY_NODES": "0,-1"}, ["AFFINITY_NODES='0,-1'", "PCI order"]),
        ({"AFFINITY_NODES": "0,,1"}, ["AFFINITY_NODES"]),
        ({"AFFINITY_NODES": "9999999999"}, ["AFFINITY_NODES"]),
        ({"AFFINITY_ENFORCE": "require"}, ["did you mean required"]),
        ({"AFFINITY_STRATEGY": "libnuma,,noop"}, ["AFFINITY_STRATEGY"]),
        ({"AFFINITY_STRATEGY": "auto,noop"}, ["AFFINITY_STRATEGY"]),
        ({"AFFINITY_CPUS": "0-1|"}, ["AFFINITY_CPUS"]),
        ({"AFFINITY_CPUS": "0-999999999999"}, ["AFFINITY_CPUS", "out of range"]),
        ({"AFFINITY_RESERVE": "-1"}, ["AFFINITY_RESERVE", "number of cores"]),
        ({"SGLANG_NUMA_BIND_V2": "2"}, ["SGLANG_NUMA_BIND_V2='2'"]),
    ],
)
def test_mistakes_name_variable_value_and_what_is_accepted(environ: dict[str, str], parts: list[str]) -> None:
    """And the nearest match, where there is one."""
    with pytest.raises(SettingsError) as caught:
        read(environ)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("variable", [v.name for v in (*VARIABLES, *ALIASES)])
def test_a_blank_value_is_no_value(variable: str) -> None:
    """`AFFINITY_NODES=` in a launch script unsets."""
    assert read({variable: " "}) == Settings()


@given(st.sampled_from([v.name for v in (*VARIABLES, *ALIASES)]), st.text(max_size=30))
def test_any_value_parses_or_is_refused_by_name(name: str, text: str) -> None:
    """No traceback from inside for any value."""
    try:
        read({name: text})
    except SettingsError as refused:
        assert name in str(refused)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strategies", "libnuma"), ("strategies", ["libnuma"]), ("policy", None), ("memory", "bind"), ("nodes", [0, 1]),
        ("nodes", (-1,)), ("auto", 1), ("required", "required"), ("devices", "pci"), ("cpus", ("0-1",)), ("smt", "on"),
        ("scope", "machine"), ("reserve", -1), ("reserve", "2"), ("reserve", None), ("reserve", True),
        ("policy", "a b"), ("strategies", ("auto",)), ("strategies", ("libnuma", "")), ("nodes", ()),
        ("cpus", (CpuSet(),)),
        ("memory", MemoryMode.WEIGHTED_INTERLEAVE), ("options", "no"), ("options", {"AFFINITY_ACME_X": 1}),
        ("options", {"AFFINITY_ACME_X": " "}), ("options", {"AFFINITY_POLICY": "node"}), ("options", {"ACME_X": "1"}),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_where_it_is_built(field: str, value: object) -> None:
    """In code, as in a variable: which field, what was found, what is expected."""
    with pytest.raises(SettingsError, match=rf"Settings\({field}={re.escape(repr(value))}\): expected "):
        Settings(**{field: value})  # type: ignore[arg-type]


NAMES = st.text("aZ09-_.é", min_size=1, max_size=9).filter(lambda name: name != "auto")
CPUS = st.sets(st.integers(0, 300), min_size=1, max_size=5).map(CpuSet)
FIELDS: dict[str, st.SearchStrategy[object]] = {
    "strategies": st.lists(NAMES, max_size=3).map(tuple),
    "policy": NAMES,
    "memory": st.sampled_from(
        [None, MemoryMode.PREFERRED, MemoryMode.BIND, MemoryMode.INTERLEAVE, MemoryMode.LOCAL],
    ),
    "nodes": st.none() | st.lists(st.integers(0, 65535), min_size=1, max_size=9).map(tuple),
    "devices": st.lists(NAMES, max_size=3).map(tuple),
    "cpus": st.lists(CPUS, max_size=3).map(tuple),
    "smt": st.sampled_from(["all", "one"]),
    "scope": st.sampled_from(["node", "socket"]),
    "reserve": st.integers(0, 99_999),
    **{flag: st.booleans() for flag in ("auto", "required", "migrate", "v2", "autostart")},
}
OPTIONS = st.dictionaries(
    st.sampled_from(["AFFINITY_ACME_A", "AFFINITY_ACME_B", "AFFINITY_PORT"]), st.sampled_from(["1", "a;b=c", "é"])
)
SETTINGS = st.builds(Settings, **FIELDS, options=OPTIONS)  # type: ignore[arg-type]
EVERY = [v.name for v in (*VARIABLES, *ALIASES)]
TEXTS = [
    "",
    " ",
    "0",
    "1",
    "auto",
    "none",
    "one",
    "socket",
    "required",
    "even",
    "bind",
    "0-3|4",
    "0,1",
    "no such value!",
]
ENVIRONS = st.dictionaries(
    st.sampled_from([*EVERY, "AFFINITY_ACME_A", "AFFINITY_PORT", "AFFINITY_BOUND", "PATH"]), st.sampled_from(TEXTS)
)


def test_the_properties_are_about_every_field() -> None:
    """One that is added is drawn too."""
    assert {*FIELDS, "options", "decided_by"} == {field.name for field in attrs.fields(Settings)}


@given(st.sampled_from([*VARIABLES, *ALIASES]), st.data())
def test_formatting_a_value_is_the_inverse_of_parsing(variable: Variable, data: st.DataObject) -> None:
    """For each variable and each value it can set; "" is what an unset variable means."""
    value = data.draw(FIELDS[variable.field])
    text = variable.format(value)
    if text:
        assert variable.parse(text) == value
        assert text == text.strip()
    else:
        assert value == getattr(Settings(), variable.field) or variable.name == "SGLANG_SET_CPU_AFFINITY"


@given(SETTINGS, ENVIRONS)
def test_settings_travel_as_the_variables_that_differ(settings: Settings, environ: dict[str, str]) -> None:
    """Whatever the environment states, malformed values and aliases included; none of them could be left out."""
    differences = settings.differences(environ)
    assert read({**environ, **differences}) == settings
    assert read(environ, parent=differences) == settings
    for name in differences:
        fewer = {other: text for other, text in differences.items() if other != name}
        try:
            assert read({**environ, **fewer}) != settings
        except SettingsError:
            pass


@given(ENVIRONS)
def test_settings_read_from_the_environment_do_not_differ_from_it(environ: dict[str, str]) -> None:
    """Then nothing travels."""
    try:
        settings = read(environ)
    except SettingsError:
        return
    assert settings.differences(environ) == {}


@pytest.mark.parametrize(
    ("settings", "environ", "differences"),
    [
        (Settings(policy="socket"), {}, {"AFFINITY_POLICY": "socket"}),
        (Settings(), {"AFFINITY_NODES": "0,1"}, {"AFFINITY_NODES": ""}),
        (Settings(), {"SGLANG_SET_CPU_AFFINITY": "1"}, {"AFFINITY_POLICY": "node"}),
        (Settings(), {"SGLANG_CRASH_ON_NUMA_BIND_FAILURE": "maybe"}, {"AFFINITY_ENFORCE": "best-effort"}),
        (Settings(v2=False), {"AFFINITY_STRATEGY": "auto", "SGLANG_NUMA_BIND_V2": "0"}, {"AFFINITY_STRATEGY": ""}),
        (Settings(v2=False, strategies=("noop",)), {"SGLANG_NUMA_BIND_V2": "0"}, {"AFFINITY_STRATEGY": "noop"}),
        (Settings(), {"AFFINITY_ACME_X": "1"}, {"AFFINITY_ACME_X": ""}),
    ],
)
def test_the_differences_are_few(settings: Settings, environ: dict[str, str], differences: dict[str, str]) -> None:
    """One variable for one setting, an alias of it overridden."""
    assert settings.differences(environ) == differences


def test_what_the_parent_decided_overrides_the_environment_and_states_so() -> None:
    """A value, and a variable that the parent unset; what it left alone is the environment's."""
    environ = {"AFFINITY_POLICY": "socket", "AFFINITY_NODES": "0,1", "AFFINITY_SMT": "one", "AFFINITY_ACME_X": "1"}
    parent = {"AFFINITY_POLICY": "exclusive", "AFFINITY_NODES": "", "AFFINITY_ACME_X": "2"}
    settings = read(environ, parent=parent)
    assert (settings.policy, settings.nodes, settings.smt) == ("exclusive", None, "one")
    assert settings.decided_by == {
        "policy": "AFFINITY_POLICY=exclusive (from the parent process)",
        "nodes": "AFFINITY_NODES= (from the parent process)",
        "smt": "AFFINITY_SMT=one",
        "AFFINITY_ACME_X": "AFFINITY_ACME_X=2 (from the parent process)",
    }


def test_settings_are_hashable() -> None:
    """Equal ones alike."""
    assert hash(Settings(options={"AFFINITY_ACME_X": "1"})) == hash(Settings(options={"AFFINITY_ACME_X": "1"}))
