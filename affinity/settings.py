"""`Settings`: what the operator asked for, read once from an environment mapping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import attrs

from affinity.errors import SettingsError
from affinity.kernel.mempolicy import MemoryMode
from affinity.topology.cpuset import CpuSet
from affinity.variables import ALIASES, V2, VARIABLES, Option, plugin_variables

T = TypeVar("T")


def _field(default: Any, expected: str) -> Any:
    """A field that refuses what its variable cannot express: settings built in code reach a worker as variables."""

    def validate(_: object, attribute: Any, value: Any) -> None:
        variable = next(v for v in (*VARIABLES, V2) if v.field == attribute.name)
        try:
            text = variable.format(value)
            read = variable.parse(text) if text else default
            accepted = read == value and isinstance(value, type(read))
        except Exception:  # the format of another type
            accepted = False
        if not accepted:
            raise SettingsError(f"Settings({attribute.name}={value!r}): expected {expected}")

    return attrs.field(default=default, validator=validate)


@attrs.frozen
class Settings:
    """The operator's flags; the defaults are what no flag at all means. Raises SettingsError for another kind of value.

    strategies: names in order of preference, empty for automatic. policy: of placement.
    memory: the policy to ask for, None to leave memory alone. nodes: of each GPU in PCI order. auto: whether
    to bind automatically to the detected node. required: an incomplete binding is an error. migrate: move pages touched
    before. v2: False for the `legacy` strategy. devices: providers to ask, empty for automatic.
    cpus: the `explicit` policy's groups, one a GPU in PCI order. smt: all siblings of a core, or one.
    scope: whether a split policy divides a node's or a socket's cores. reserve: cores left free on each node.
    autostart: whether workers bind themselves at their start; read then (affinity.integrations.autostart).
    options: the text of `AFFINITY_…` variables that are not built in, by name; `option` reads one.
    decided_by: the variable and its text, by field or by the name of an option.
    """

    strategies: tuple[str, ...] = _field((), "a tuple of strategy names")
    policy: str = _field("node", "the name of a placement policy")
    memory: MemoryMode | None = _field(MemoryMode.PREFERRED, "None or MemoryMode PREFERRED, BIND, INTERLEAVE or LOCAL")
    nodes: tuple[int, ...] | None = _field(None, "a tuple of node ids, or None")
    auto: bool = _field(True, "True or False")
    required: bool = _field(False, "True or False")
    migrate: bool = _field(True, "True or False")
    v2: bool = _field(True, "True or False")
    devices: tuple[str, ...] = _field((), "a tuple of provider names")
    cpus: tuple[CpuSet, ...] = _field((), "a tuple of CpuSet, none of them empty")
    smt: str = _field("all", "'all' or 'one'")
    scope: str = _field("node", "'node' or 'socket'")
    reserve: int = _field(0, "a number of cores from 0")
    autostart: bool = _field(False, "True or False")
    options: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    decided_by: Mapping[str, str] = attrs.field(factory=dict, eq=False)

    @options.validator
    def _check_options(self, _: object, value: object) -> None:
        expected = "non-blank text by the name of an AFFINITY_ variable that is not built in"
        if not isinstance(value, Mapping) or not all(isinstance(part, str) for item in value.items() for part in item):
            raise SettingsError(f"Settings(options={value!r}): expected {expected}")
        for name, text in value.items():
            if plugin_variables({name: text}) != {name: text}:
                raise SettingsError(f"Settings(options={{{name!r}: {text!r}}}): expected {expected}")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], *, parent: Mapping[str, str] | None = None) -> Settings:
        """Read the variables of `environ`; those of `parent`, the starter's `differences`, override them.

        Raise SettingsError if a value does not parse: variable, value, what is accepted, and the nearest match.
        """
        parent = parent or {}
        texts = {**environ, **parent}
        found: dict[str, Any] = {"options": plugin_variables(texts)}
        decided = {name: f"{name}={text}" for name, text in found["options"].items()}
        for variable in (*VARIABLES, *ALIASES):
            text = texts.get(variable.name, "").strip()
            if not text or variable.field in decided or variable.overridden_by in decided.values():
                continue
            value = variable.read(text)
            if value is not None or variable.name.startswith("AFFINITY_"):
                found[variable.field] = value
                decided[variable.field] = f"{variable.name}={text}"
        for variable in (v for v in VARIABLES if v.name in parent):  # what is not decided yet, the parent unset
            decided.setdefault(variable.field, f"{variable.name}=")
        for key, text in decided.items():
            if text.partition("=")[0] in parent:
                decided[key] = f"{text} (from the parent process)"
        return cls(**found, decided_by=decided)

    def differences(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the fewest variables that make `environ` read as these settings, "" for one to unset."""
        ours = {name: text for name, text in environ.items() if name.startswith(("AFFINITY_", "SGLANG_"))}
        if self._is_read_from(ours):
            return {}
        needed = {name: self.options.get(name, "") for name in (*plugin_variables(ours), *self.options)}
        needed |= {v.name: v.format(getattr(self, v.field)) for v in (*VARIABLES, V2)}
        for name in tuple(needed):
            fewer = {other: text for other, text in needed.items() if other != name}
            if self._is_read_from({**ours, **fewer}):
                needed = fewer
        return needed

    def _is_read_from(self, environ: Mapping[str, str]) -> bool:
        try:
            return self.from_environ(environ) == self
        except SettingsError:  # a malformed value, which these settings must override
            return False

    def check(self, options: Iterable[Option[Any]]) -> None:
        """Raise SettingsError if the text of one of these options does not parse."""
        for option in options:
            self.option(option)

    def option(self, option: Option[T]) -> T:
        """Return the value of a plugin's option. Raise SettingsError if its text does not parse."""
        text = self.options.get(option.name)
        return option.default if text is None else option.read(text)
