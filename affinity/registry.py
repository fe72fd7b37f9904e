"""Plugins, found through entry points; the only import of stevedore, which loads those of others.

stevedore 5.10's own cache can miss a plugin installed a second ago and drops the distribution's name, so the entry
points come from importlib.metadata; of two plugins with one name it lets either win, so doubles are found first; a
plugin that fails to load vanishes, so its failure is kept as data and raised only where that plugin was asked for.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable
from importlib.metadata import Distribution, EntryPoint, distributions
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

from affinity.errors import PluginError
from affinity.variables import Option, suggestion

#: The distribution whose plugin names no other distribution may claim.
BUILTIN = "numa-affinity"

#: The name under which a distribution whose entry points cannot be read is shown.
UNREADABLE = "?"

P = TypeVar("P")


class PluginInfo(NamedTuple):
    """One entry point: its name, distribution and version, and the error that keeps it from being used."""

    name: str
    distribution: str
    version: str
    target: str
    error: str = ""


class InstalledPlugin(NamedTuple):
    """An entry point, and whose it is. problem: why it could not even be read."""

    point: EntryPoint
    distribution: str
    version: str
    problem: str = ""

    def __str__(self) -> str:
        whose = f"{self.distribution} {self.version}".strip()
        return f"plugin {self.point.name!r} of {whose} ({self.point.value})"


def installed() -> list[InstalledPlugin]:
    """Every entry point of the groups `affinity.*` that is installed at this moment.

    importlib.metadata.entry_points() parses the file of every distribution, and one that does not parse fails them
    all; here only the files that name our groups are parsed, each for itself: the rest of an environment costs no more
    than being read.
    """
    spelled = (_field(dist, "Name") for dist in distributions() if "affinity." in _text(dist))
    names = dict.fromkeys(re.sub("[-_.]+", "-", name).lower() for name in spelled)  # PEP 503
    return [found for name in names for found in _of(name)]


def _of(normalized: str) -> list[InstalledPlugin]:
    """Return the entry points of the distribution of this name, [] for those that an interrupted uninstall leaves."""
    copies = list(distributions(name=normalized)) if normalized else []
    if not copies:
        return []
    dist = copies[0] if len(copies) == 1 else _copy_with_files(copies)
    name, version = _field(dist, "Name"), _field(dist, "Version")
    try:
        return [InstalledPlugin(p, name, version) for p in dist.entry_points if p.group.startswith("affinity.")]
    except Exception as malformed:
        problem = f"entry_points.txt of {name} cannot be read ({_first_line(malformed)}): reinstall or uninstall {name}"
        sections = [line.strip() for line in _text(dist).splitlines() if line.strip().startswith("[")]
        points = [EntryPoint(UNREADABLE, "entry_points.txt", section.strip("[]")) for section in sections]
        return [InstalledPlugin(p, name, version, problem) for p in points]


def _copy_with_files(copies: list[Distribution]) -> Distribution:
    """Return the first copy on sys.path whose files exist; of two in one directory the one with more of them.

    Metadata alone stays behind if files are deleted by hand, and after `pip install --target --upgrade`.
    """
    places: dict[str, list[Distribution]] = {}
    for copy in copies:
        places.setdefault(str(copy.locate_file("")), []).append(copy)
    best = [max(place, key=_share_of_files) for place in places.values()]
    return next((copy for copy in best if _share_of_files(copy) >= 0.5), copies[0])


def _share_of_files(dist: Distribution) -> float:
    """Return the share (0 to 1) of its files that exist, with the size recorded.

    Its files: modules and .pth files (an editable copy has one) in its RECORD, else the modules of its entry points.
    """
    recorded = re.findall(r"^([^,\n]+\.(?:py|pth)),[^,\n]*,([0-9]*)$", _text(dist, "RECORD"), re.MULTILINE)
    files = [_is_there(dist, path, size) for path, size in recorded]
    if not files:
        modules = re.findall(r"^[^#=\n]+=\s*([\w.]+)\s*:", _text(dist), re.MULTILINE)
        paths = [module.replace(".", "/") for module in modules]
        files = [_is_there(dist, f"{path}.py") or _is_there(dist, f"{path}/__init__.py") for path in paths]
    return sum(files) / len(files) if files else 0.0


def _is_there(dist: Distribution, path: str, size: str = "") -> bool:
    file: Any = dist.locate_file(path)
    if not isinstance(file, os.PathLike):  # in a zip file
        return bool(file.exists())
    try:
        return size in ("", str(os.stat(file).st_size))
    except (OSError, ValueError):
        return False


class Registry(Generic[P]):
    """The plugins of one entry-point group, each of which must make a `kind`.

    check: what else is wrong with a plugin's class, in words; "" where nothing is.
    """

    def __init__(
        self,
        group: str,
        kind: type[P],
        found: Iterable[InstalledPlugin] | None = None,
        check: Callable[[type[P]], str] = lambda _: "",
    ) -> None:
        self.group = group
        self.kind = kind
        ours = [f for f in (installed() if found is None else found) if f.point.group == group]
        self._found = sorted(ours, key=lambda f: (f.point.name, f.distribution))
        self._check = check
        self._made: dict[str, P] = {}

    def names(self) -> tuple[str, ...]:
        """Every name there is, in order."""
        return tuple(dict.fromkeys(f.point.name for f in self._found))

    def require(self, name: str) -> None:
        """Raise PluginError if no plugin has this name, or several have it. Loads none."""
        self._choose(name)

    def get(self, name: str) -> P:
        """Return the plugin of this name, made once. Raises PluginError if it is missing, doubled or broken."""
        if name not in self._made:
            self._made[name] = self._make(self._choose(name))
        return self._made[name]

    def list(self) -> tuple[PluginInfo, ...]:
        """Every entry point of the group, broken ones with their error."""
        listed = []
        for found in self._found:
            name, error = found.point.name, ""
            try:
                if self._choose(name) is not found:
                    error = f"claims the name {name!r} of a built-in plugin: not used; rename it"
                else:
                    self.get(name)
            except PluginError as broken:
                error = str(broken)
            listed.append(PluginInfo(name, found.distribution, found.version, found.point.value, error))
        return tuple(listed)

    def _choose(self, name: str) -> InstalledPlugin:
        named = [f for f in self._found if f.point.name == name]
        own = [f for f in named if f.distribution == BUILTIN]
        if len(own or named) == 1:
            return (own or named)[0]
        if not named:
            known = ", ".join(self.names()) or f"none (not even those of {BUILTIN}: is it installed, metadata and all?)"
            near = suggestion(name, self.names())
            raise PluginError(f"no plugin {name!r} in {self.group}: installed are {known}{near}")
        owners = " and ".join(f"{f.distribution} ({f.point.value})" for f in named)
        raise PluginError(f"plugin {name!r} of {self.group} is claimed by {owners}: uninstall one of them")

    def _make(self, found: InstalledPlugin) -> P:
        def broken(problem: str) -> PluginError:
            return PluginError(f"{found} is broken: {problem}")

        if found.problem:
            raise PluginError(found.problem)
        if not EntryPoint.pattern.match(found.point.value):
            raise broken(f"expected `module:Class` in its entry point; reinstall or uninstall {found.distribution}")
        try:
            # Our own need not pay the import of stevedore, a tenth of a bind.
            loaded = found.point.load() if found.distribution == BUILTIN else _load(found.point)
        except (Exception, SystemExit) as error:
            raise broken(_load_failure(error, found)) from error
        problem = self._problem(loaded, found)
        if problem:
            raise broken(problem)
        try:
            return loaded()  # type: ignore[no-any-return]
        except (Exception, SystemExit) as error:
            raise broken(f"building it raised {_first_line(error)}") from error

    def _problem(self, loaded: Any, found: InstalledPlugin) -> str:
        """What is wrong with what an entry point names, in words; "" where nothing is."""
        kind = self.kind.__name__
        if not isinstance(loaded, type):
            return f"it is a {type(loaded).__name__}, expected a subclass of {kind}"
        if not issubclass(loaded, self.kind):
            return f"class {loaded.__name__} is no subclass of {kind}"
        wanted, have = (getattr(side, "interface_version", 1) for side in (loaded, self.kind))
        if not isinstance(wanted, int):
            return f"its interface_version is {wanted!r}, expected a number"
        if wanted > have:
            return (
                f"it is written for version {wanted} of {kind}, the installed {BUILTIN} has version {have}: "
                f"upgrade {BUILTIN} or install an older {found.distribution}"
            )
        if inspect.isabstract(loaded):
            missing = ", ".join(sorted(getattr(loaded, "__abstractmethods__", ())))
            return f"class {loaded.__name__} does not implement {missing}"
        return _options_problem(getattr(loaded, "options", ()), found.point.name) or self._check(loaded)


def option_prefix(plugin: str) -> str:
    """Return what the names of a plugin's own variables begin with: `AFFINITY_ACME_NUMA_` for `acme-numa`."""
    return f"AFFINITY_{plugin.upper().replace('-', '_').replace('.', '_')}_"


def _options_problem(options: object, plugin: str) -> str:
    if not isinstance(options, tuple) or not all(isinstance(option, Option) for option in options):
        return f"its options is {options!r}, expected a tuple of Option"
    prefix = option_prefix(plugin)
    wrong = [option.name for option in options if not option.name.startswith(prefix)]
    return f"its option {wrong[0]} must begin with {prefix}" if wrong else ""


def _load(point: EntryPoint) -> Any:
    """What an entry point names, loaded by stevedore; raises what its import raises."""
    from stevedore.named import NamedExtensionManager

    class Manager(NamedExtensionManager):  # type: ignore[type-arg]  # generic from stevedore 5.6 on
        """Loads exactly the entry point it is given."""

        def list_entry_points(self) -> list[EntryPoint]:
            return [point]

    failures: list[BaseException] = []
    manager = Manager(
        point.group,
        names=[point.name],
        on_load_failure_callback=lambda _manager, _point, error: failures.append(error),
        on_missing_entrypoints_callback=None,
    )
    if failures:
        raise failures[0]
    return next(iter(manager)).plugin


def _load_failure(error: BaseException, found: InstalledPlugin) -> str:
    module, whose = found.point.module, found.distribution
    if isinstance(error, ModuleNotFoundError) and error.name:
        if f"{module}.".startswith(f"{error.name}."):
            return f"it points nowhere, there is no module {error.name!r}; reinstall or uninstall {whose}"
        return f"it needs module {error.name!r}, which is not installed; install that, or uninstall {whose}"
    if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType) and error.obj.__name__ == module:
        return f"it points nowhere, there is no {error.name!r} in module {module!r}; reinstall or uninstall {whose}"
    return f"its import raised {_first_line(error)}"


def _field(dist: Distribution, key: str) -> str:
    """Of its metadata; "" where that is missing or cannot be read.

    From the header's text: `dist.metadata` parses the whole file, the README in it too, a millisecond each time.
    """
    try:
        text = dist.read_text("METADATA") or dist.read_text("PKG-INFO") or dist.read_text("") or ""
    except (OSError, ValueError):
        return ""
    fields = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return next((value.strip() for name, _, value in fields if name == key), "")


def _text(dist: Distribution, name: str = "entry_points.txt") -> str:
    try:
        return dist.read_text(name) or ""
    except (OSError, ValueError):  # unreadable, or not text: it names no group
        return ""


def _first_line(error: BaseException) -> str:
    """The type and the first line of its words."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
