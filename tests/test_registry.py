"""Finding plugins: what is installed at this moment, by name, each made once. Broken ones: test_broken_plugins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import affinity
from affinity import Host, PluginError, Settings
from affinity.devices import DeviceProvider
from affinity.plugins import Plugins
from affinity.policies import PlacementPolicy
from affinity.registry import BUILTIN, InstalledPlugin, Registry, installed
from affinity.render import serialize
from affinity.strategies import AffinityStrategy

ROOT = Path(__file__).resolve().parent.parent

Install = Callable[..., Path]

GOOD = """
from affinity.strategies import RUNNING, AffinityStrategy, Support
made = []
class Good(AffinityStrategy):
    launch_modes = RUNNING
    version = {version!r}
    def __init__(self): made.append(self)
    def supports(self, observation): return Support.yes({version!r})
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution into a directory of sys.path: `install(name, entries, version="1.0", into="site")`."""

    def put(name: str, entries: str, *, version: str = "1.0", into: str = "site", metadata: str | None = None) -> Path:
        site = tmp_path / into
        if not site.is_dir():
            site.mkdir()
            monkeypatch.syspath_prepend(str(site))
        module = name.replace("-", "_")
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        reported = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" if metadata is None else metadata
        (info / "METADATA").write_text(reported)
        (info / "entry_points.txt").write_text(entries)
        (site / f"{module}.py").write_text(GOOD.format(version=version))
        monkeypatch.delitem(sys.modules, module, raising=False)
        return info

    return put


def test_every_built_in_plugin_works() -> None:
    """Each is of this distribution, and none is broken."""
    plugins = Plugins()
    for registry in (plugins.strategies, plugins.policies, plugins.devices):
        own = [info for info in registry.list() if info.distribution == BUILTIN]
        assert own
        assert [info for info in own if info.error] == []
    assert {"noop", "numactl", "libnuma", "legacy", "inherit"} <= set(plugins.strategies.names())
    assert "node" in plugins.policies.names()
    assert "pci" in plugins.devices.names()


def test_the_versions_are_those_that_the_reference_page_promises() -> None:
    """Of each interface and of the JSON: no one raises one without writing down what it means."""
    page = (ROOT / "docs/reference/plugins.md").read_text(encoding="utf-8")
    for kind in (AffinityStrategy, PlacementPolicy, DeviceProvider):
        name = kind.__name__
        assert f"| `{name}` | {kind.interface_version} | `{name}.interface_version` |" in page
    assert f"| the JSON of `--json` | {serialize.VERSION} |" in page


def test_a_plugin_is_made_once() -> None:
    """Whatever asks gets the same."""
    strategies = Plugins().strategies
    assert strategies.get("noop") is strategies.get("noop")


def test_a_name_that_is_not_there_is_an_error_that_lists_those_that_are() -> None:
    """For each group its own."""
    with pytest.raises(PluginError, match=r"no plugin 'numctl' in affinity.strategies: installed are .*numactl"):
        Plugins().strategies.get("numctl")
    with pytest.raises(PluginError, match=r"no plugin 'numactl' in affinity.policies: installed are .*node"):
        Plugins().policies.get("numactl")


def test_without_any_metadata_the_error_states_so() -> None:
    """As in a program that was frozen without its distributions."""
    with pytest.raises(PluginError, match=r"installed are none .*is it installed, metadata and all"):
        Registry("affinity.strategies", AffinityStrategy, []).get("noop")  # type: ignore[type-abstract]


def test_a_third_partys_plugin_is_found_with_its_distribution(install: Install) -> None:
    """Name, version and target are in the catalog; the others are still there."""
    install("good-one", "[affinity.strategies]\ngood = good_one:Good\n", version="2.5")
    strategies = Plugins().strategies
    (info,) = [i for i in strategies.list() if i.name == "good"]
    assert (info.distribution, info.version, info.target, info.error) == ("good-one", "2.5", "good_one:Good", "")
    assert strategies.get("good").version == "2.5"  # type: ignore[attr-defined]
    assert "noop" in strategies.names()


def test_installed_a_second_ago_in_a_running_process(install: Install) -> None:
    """The next call finds it, and no longer when it is gone; an upgrade in place is the new version."""
    install("first-one", "[affinity.strategies]\nfirst = first_one:Good\n")
    settings = Settings(strategies=("late",))
    host = Host.synthetic("numa:2 core:2 gpu:1")
    with pytest.raises(PluginError, match="no plugin 'late'"):
        affinity.plan(gpu=0, host=host, launch_mode="ray", settings=settings)
    info = install("late-one", "[affinity.strategies]\nlate = late_one:Good\n")
    assert affinity.plan(gpu=0, host=host, launch_mode="ray", settings=settings).selection.strategy == "late"
    shutil.rmtree(info)
    with pytest.raises(PluginError, match="no plugin 'late'"):
        affinity.plan(gpu=0, host=host, launch_mode="ray", settings=settings)
    install("late-one", "[affinity.strategies]\nlate = late_one:Good\n", version="2.0")
    assert affinity.plan(gpu=0, host=host, launch_mode="ray", settings=settings).selection.strategy == "late"
    assert [i.version for i in Plugins().strategies.list() if i.name == "late"] == ["2.0"]


def test_of_two_copies_of_a_distribution_the_first_on_the_path_counts(install: Install) -> None:
    """A newer copy that has dropped a plugin hides the older one's; as with imports, nothing is claimed twice."""
    install("one", "[affinity.strategies]\nold = one:Good\nkept = one:Good\n", version="1.0", into="behind")
    install("one", "[affinity.strategies]\nkept = one:Good\n", version="2.0", into="before")
    strategies = Plugins().strategies
    assert "old" not in strategies.names()
    assert strategies.get("kept").version == "2.0"  # type: ignore[attr-defined]


def test_one_distribution_that_names_a_plugin_twice(install: Install) -> None:
    """Is as ambiguous as two."""
    install("double", "[affinity.strategies]\nit = double:Good\nit = double:Other\n")
    with pytest.raises(PluginError, match=r"claimed by double \(double:\w+\) and double \(double:\w+\)"):
        Plugins().strategies.get("it")


@pytest.mark.parametrize("metadata", ["", "Metadata-Version: 2.1\nVersion: 1.0\n"])
def test_what_an_interrupted_uninstall_left_is_no_ones(install: Install, metadata: str) -> None:
    """Entry points without a name stop nothing."""
    install("leftover", "[affinity.strategies]\nleftover = leftover:Good\n", metadata=metadata)
    assert Plugins().strategies.get("noop")


def test_a_distribution_without_a_version_can_be_used(install: Install) -> None:
    """Its plugin is whole."""
    install(
        "unversioned",
        "[affinity.strategies]\nx = unversioned:Good\n",
        metadata="Metadata-Version: 2.1\nName: unversioned\n",
    )
    (info,) = [i for i in Plugins().strategies.list() if i.name == "x"]
    assert (info.distribution, info.version, info.error) == ("unversioned", "", "")


def test_what_other_packages_leave_in_their_entry_points_stops_none(install: Install) -> None:
    """A file that does not parse, or is not text, and is not about this package."""
    install("strange", "[console_scripts]\nno equals sign here\n")
    (install("stranger", "") / "entry_points.txt").write_bytes(b"\xff\xfe[console_scripts]\n")
    plugins = Plugins()
    assert plugins.strategies.get("noop")
    assert not any(info.error for info in plugins.strategies.list())


def test_only_what_is_asked_for_is_imported(install: Install) -> None:
    """Looking at the names loads no plugin, and a group does not load another's."""
    install("unasked", "[affinity.strategies]\nunasked = unasked:Good\n")
    assert "unasked" in Plugins().strategies.names()
    Plugins().strategies.get("noop")
    assert "unasked" not in sys.modules


def test_a_claim_on_a_built_in_name_is_refused_whichever_sorts_first() -> None:
    """Distributions are sorted by name; that decides nothing here."""
    value = "affinity_plugins.strategies.noop:Noop"
    for claimant in ("aaa", "zzz"):
        found = [
            InstalledPlugin(EntryPoint("noop", value, "affinity.strategies"), BUILTIN, "1"),
            InstalledPlugin(EntryPoint("noop", "nothing:Here", "affinity.strategies"), claimant, "1"),
        ]
        registry: Registry[AffinityStrategy] = Registry("affinity.strategies", AffinityStrategy, found)  # type: ignore[type-abstract]
        assert type(registry.get("noop")).__name__ == "Noop"
        errors = {info.distribution: info.error for info in registry.list()}
        assert errors == {BUILTIN: "", claimant: "claims the name 'noop' of a built-in plugin: not used; rename it"}


def test_the_groups_hold_what_the_distribution_declares() -> None:
    """And nothing beyond the four groups is read."""
    own = [found for found in installed() if found.distribution == BUILTIN]
    groups = {found.point.group for found in own}
    assert groups == {"affinity.strategies", "affinity.policies", "affinity.devices", "affinity.launchers"}


def test_stevedore_loads_the_plugins_of_others_and_a_bind_needs_none(install: Install) -> None:
    """Its import costs more than reading the names."""
    site = install("acme", "[affinity.strategies]\ngood = acme:Good\n").parent
    program = (
        "import sys, affinity; from affinity.plugins import Plugins\n"
        "affinity.bind(node=0); print('stevedore' in sys.modules)\n"
        "Plugins().strategies.get('good'); print('stevedore' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(site), "AFFINITY_STRATEGY": "libnuma"}
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "False\nTrue\n", done.stderr


def stale(site: Path, name: str, version: str, *, entries: str | None, record: str | None) -> Path:
    """Metadata of a distribution whose files are gone, in a directory of its own."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if entries is not None:
        (info / "entry_points.txt").write_text(entries)
    if record is not None:
        (info / "RECORD").write_text(record)
    return site


OWN = "[affinity.strategies]\nnoop = affinity_plugins.noop:Noop\n"


@pytest.mark.parametrize(
    ("entries", "record"),
    [
        (None, None),
        (OWN, None),
        (None, "affinity/__init__.py,,100\nnuma_affinity-0.0.9.dist-info/METADATA,,\n"),
        (OWN, "affinity/__init__.py,,100\naffinity_plugins/noop.py,,100\nnuma_affinity-0.0.9.dist-info/METADATA,,\n"),
        ("affinity.strategies, no section\n", "no record\n,,,\n\0.py,,1\n"),
    ],
    ids=["name", "entry points", "record", "all", "malformed"],
)
def test_metadata_left_behind_earlier_on_the_path_hides_nothing(
    entries: str | None, record: str | None, tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Of two copies the one whose files exist counts, whatever is left of the other; here it is this very package."""
    site = stale(tmp_path, BUILTIN, "0.0.9", entries=entries, record=record)
    program = (
        "import affinity; from affinity.plugins import Plugins\n"
        "print(*[p.error for p in Plugins().strategies.list()], *Plugins().policies.names())\n"
        "print(affinity.plan(node=0, launch_mode='ray').placement.cpus is not None)"
    )
    names, placed = python(program, PYTHONPATH=str(site)).stdout.splitlines()
    assert names.split() == [
        "core-complex",
        "even",
        "exclusive",
        "explicit",
        "interleaved",
        "node",
        "single-core",
        "socket",
    ]
    assert placed == "True"


def test_two_spellings_of_one_name_are_one_distribution(install: Install) -> None:
    """As older build tools wrote it, and as newer ones do. Source: PEP 503, Normalized Names."""
    metadata = "Metadata-Version: 2.1\nName: Two_Ways\nVersion: 1.0\n"
    entries = "[affinity.strategies]\nit = two_ways:Good\n"
    install("two-ways", entries, version="1.0", into="behind", metadata=metadata)
    install("two-ways", entries, version="2.0", into="before")
    assert [(i.version, i.error) for i in Plugins().strategies.list() if i.name == "it"] == [("2.0", "")]


def test_another_distributions_metadata_left_behind_hides_nothing(install: Install, tmp_path: Path) -> None:
    """The same rule for everyone's."""
    install("two-copies", "[affinity.strategies]\nboth = two_copies:Good\n", version="2.0", into="behind")
    sys.path.insert(0, str(stale(tmp_path / "before", "two-copies", "1.0", entries=None, record="two_copies.py,,9\n")))
    try:
        assert [i.version for i in Plugins().strategies.list() if i.name == "both"] == ["2.0"]
    finally:
        sys.path.pop(0)


def test_an_editable_copy_counts_where_its_pth_file_is(install: Install, tmp_path: Path) -> None:
    """Its RECORD lists no module; those are elsewhere. It hides a copy behind, as its modules do."""
    install("edited", "[affinity.strategies]\nedited = edited:Good\nold = edited:Good\n", version="1.0", into="behind")
    entries = "[affinity.strategies]\nedited = edited:Good\n"
    site = stale(tmp_path / "before", "edited", "2.0", entries=entries, record="_edited.pth,,5\n")
    (site / "_edited.pth").write_text("/src\n")
    sys.path.insert(0, str(site))
    try:
        assert [i.version for i in Plugins().strategies.list() if i.name in ("edited", "old")] == ["2.0"]
    finally:
        sys.path.pop(0)


def test_of_two_copies_in_one_directory_the_one_with_the_files_as_recorded_counts(install: Install) -> None:
    """As `pip install --target --upgrade` leaves them: new files, and both metadata."""
    entries = "[affinity.strategies]\n{} = kept:Good\n"
    for version, plugin in (("1.0", "old"), ("2.0", "new"), ("3.0", "newest")):
        info = install("kept", entries.format(plugin), version=version)
        size = (info.parent / "kept.py").stat().st_size + (0 if version == "2.0" else 7)
        (info / "RECORD").write_text(f"kept.py,sha256=x,{size}\nkept-{version}.dist-info/METADATA,,\n")
    assert [i.name for i in Plugins().strategies.list() if i.distribution == "kept"] == ["new"]


def test_a_distribution_in_a_zip_file_is_found(install: Install, tmp_path: Path) -> None:
    """Its files are asked for in the archive; one that lacks them hides nothing."""
    info = install("zipped", "[affinity.strategies]\nzipped = zipped:Good\n", into="packed")
    (info / "RECORD").write_text(f"zipped.py,,{(info.parent / 'zipped.py').stat().st_size}\n")
    install("zipped", "[affinity.strategies]\nzipped = zipped:Good\nold = zipped:Good\n", version="0.9", into="behind")
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", info.parent)
    (info.parent / "zipped.py").unlink()
    hollow = shutil.make_archive(str(tmp_path / "hollow"), "zip", info.parent)
    shutil.rmtree(info)
    for archive, names in ((packed, ["zipped"]), (hollow, ["old", "zipped"])):
        sys.path.insert(0, archive)
        try:
            assert [i.name for i in Plugins().strategies.list() if i.distribution == "zipped"] == names
        finally:
            sys.path.pop(0)
