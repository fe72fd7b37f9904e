"""Plugins, found through entry points; the only import of stevedore.

stevedore 5.10's own cache can miss a plugin installed a second ago and drops the distribution's name, so the
entry points come from importlib.metadata; of two plugins with one name stevedore lets either win, so doubles
are found first; a plugin that fails to load vanishes, so its failure is kept as data and raised only where that
plugin was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any, Generic, TypeVar

import attrs
from stevedore.named import NamedExtensionManager

from affinity.errors import PluginError

#: The distribution whose plugin names nobody else may claim.
OWN = "numa-affinity"

P = TypeVar("P")


@attrs.frozen
class PluginInfo:
    """One entry point: its name, distribution and version, and the error that keeps it from being used."""

    name: str
    distribution: str
    version: str
    target: str
    error: str = ""


class Registry(Generic[P]):
    """The plugins of one entry-point group, each of which must make a `kind`."""

    def __init__(self, group: str, kind: type[P], found: Iterable[EntryPoint] | None = None) -> None:
        self.group = group
        self.kind = kind
        points: dict[tuple[str, str, str], EntryPoint] = {}
        for point in entry_points(group=group) if found is None else found:
            points.setdefault((point.name, _distribution(point)[0], point.value), point)
        self._points = sorted(points.values(), key=lambda p: (p.name, _distribution(p)[0]))
        self._made: dict[str, P] = {}

    def names(self) -> tuple[str, ...]:
        """Every name there is, in order."""
        return tuple(dict.fromkeys(point.name for point in self._points))

    def get(self, name: str) -> P:
        """The plugin of this name, made once. Raises PluginError where it is missing, doubled or broken."""
        if name not in self._made:
            self._made[name] = self._make(self._choose(name))
        return self._made[name]

    def catalog(self) -> tuple[PluginInfo, ...]:
        """Every entry point of the group, broken ones with their error."""
        told = []
        for point in self._points:
            error = ""
            try:
                if self._choose(point.name) is not point:
                    error = f"claims the name {point.name!r} of a built-in plugin: not used; rename it"
                else:
                    self.get(point.name)
            except PluginError as broken:
                error = str(broken)
            told.append(PluginInfo(point.name, *_distribution(point), point.value, error))
        return tuple(told)

    def _choose(self, name: str) -> EntryPoint:
        found = [p for p in self._points if p.name == name]
        own = [p for p in found if _distribution(p)[0] == OWN]
        if len(own or found) == 1:
            return (own or found)[0]
        if not found:
            raise PluginError(f"no plugin {name!r} in {self.group}: installed are {', '.join(self.names()) or 'none'}")
        owners = " and ".join(f"{_distribution(p)[0]} ({p.value})" for p in found)
        raise PluginError(f"plugin {name!r} of {self.group} is claimed by {owners}: uninstall one of them")

    def _make(self, point: EntryPoint) -> P:
        failures: list[BaseException] = []

        def failed(_manager: object, _point: EntryPoint, error: BaseException) -> None:
            failures.append(error)

        manager = _Manager(point, self.group, failed)
        where = f"plugin {point.name!r} of {' '.join(_distribution(point))} ({point.value})"
        if failures:
            raise PluginError(f"{where} is broken: {_told(failures[0])}") from failures[0]
        made = next(iter(manager)).obj
        if not isinstance(made, self.kind):
            raise PluginError(f"{where} is broken: {type(made).__name__} is no subclass of {self.kind.__name__}")
        return made


class _Manager(NamedExtensionManager[Any]):
    """Loads exactly the entry point it is given."""

    def __init__(self, point: EntryPoint, group: str, failed: Any) -> None:
        self._point = point
        super().__init__(
            group,
            names=[point.name],
            invoke_on_load=True,
            on_load_failure_callback=failed,
            on_missing_entrypoints_callback=None,
        )

    def list_entry_points(self) -> list[EntryPoint]:
        return [self._point]


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return _name_and_version(point.dist) if point.dist is not None else ("unknown", "")


@lru_cache(maxsize=64)
def _name_and_version(dist: Distribution) -> tuple[str, str]:
    """Kept, by identity: each of the two parses the distribution's whole METADATA, some milliseconds every time."""
    metadata = dist.metadata
    return metadata["Name"], metadata["Version"]


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
