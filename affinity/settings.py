"""`Settings`: what the operator asked for, read once from an environment mapping.

`VARIABLES` is the whole interface; `affinity explain` and docs/reference/settings.md are made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import attrs

from affinity.errors import ListFormatError, SettingsError
from affinity.kernel.mempolicy import MemoryMode
from affinity.topology.cpuset import MAX_ID, CpuSet


def _validated(default: Any, expected: str, check: Callable[[Any], bool]) -> Any:
    """A field that refuses what could not have come from a variable; values are also built in code."""

    def validate(instance: Any, attribute: Any, value: Any) -> None:
        if not check(value):
            raise SettingsError(f"Settings({attribute.name}={value!r}): expected {expected}")

    return attrs.field(default=default, validator=validate)


def _flag(default: bool) -> Any:
    return _validated(default, "True or False", lambda value: isinstance(value, bool))


def _tuple_of(kind: type, value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, kind) for item in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@attrs.frozen
class Settings:
    """The operator's flags; the defaults are what no flag at all means. Raises SettingsError for another kind of value.

    strategies: names in order of preference, empty for automatic. policy: of placement.
    memory: the policy to ask for, None to leave memory alone. nodes: of each GPU in PCI order. auto: whether
    to bind without being told a node. required: an incomplete binding is an error. migrate: move pages touched
    before. v2: False for the first generation's binding. devices: providers to ask, empty for automatic.
    cpus: the `explicit` policy's groups, one a GPU in PCI order. smt: all siblings of a core, or one.
    scope: what a split policy splits. reserve: cores left free on each node. decided: which variable set what.
    """

    strategies: tuple[str, ...] = _validated((), "a tuple of strategy names", lambda v: _tuple_of(str, v))
    policy: str = _validated("node", "the name of a placement policy", lambda v: isinstance(v, str))
    memory: MemoryMode | None = _validated(
        MemoryMode.PREFERRED, "a MemoryMode or None", lambda v: v is None or isinstance(v, MemoryMode)
    )
    nodes: tuple[int, ...] | None = _validated(
        None, "a tuple of node ids, or None", lambda v: v is None or (isinstance(v, tuple) and all(map(_is_count, v)))
    )
    auto: bool = _flag(True)
    required: bool = _flag(False)
    migrate: bool = _flag(True)
    v2: bool = _flag(True)
    devices: tuple[str, ...] = _validated((), "a tuple of provider names", lambda v: _tuple_of(str, v))
    cpus: tuple[CpuSet, ...] = _validated((), "a tuple of CpuSet", lambda v: _tuple_of(CpuSet, v))
    smt: str = _validated("all", "'all' or 'one'", lambda v: v in ("all", "one"))
    scope: str = _validated("node", "'node' or 'socket'", lambda v: v in ("node", "socket"))
    reserve: int = _validated(0, "a number of cores from 0", _is_count)
    decided_by: Mapping[str, str] = attrs.field(factory=dict, eq=False)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Raises SettingsError: variable, value, what is accepted, and the nearest match."""
        known = {v.name for v in VARIABLES} | INTERNAL
        for name in environ:
            if name.startswith("AFFINITY_") and name not in known:
                raise SettingsError(
                    f"{name} is no setting of this package{_suggestion(name, known)}; unset or correct it"
                )
        found: dict[str, Any] = {}
        decided: dict[str, str] = {}
        for variable in (*VARIABLES, *ALIASES):
            text = environ.get(variable.name, "").strip()
            if (
                not text
                or variable.field in decided
                or (variable.overridden_by and environ.get(variable.overridden_by, "").strip())
            ):
                continue
            value = variable.read(text)
            if value is not None or variable.name.startswith("AFFINITY_"):
                found[variable.field] = value
                decided[variable.field] = f"{variable.name}={text}"
        return cls(**found, decided_by=decided)


class Variable(NamedTuple):
    """One environment variable. `unless`: the variable that overrules it."""

    name: str
    field: str
    parse: Callable[[str], Any]
    accepted: str
    meaning: str
    overridden_by: str = ""

    def read(self, text: str) -> Any:
        try:
            return self.parse(text)
        except (ValueError, ListFormatError) as wrong:
            words = [w.strip(" `") for w in self.accepted.split(",")]
            why = f" ({wrong})" if isinstance(wrong, ListFormatError) else ""
            raise SettingsError(
                f"{self.name}={text!r} does not parse{why}: expected {self.accepted}{_suggestion(text.lower(), words)}"
            ) from None


def _suggestion(text: str, words: Any) -> str:
    import difflib

    close = difflib.get_close_matches(text, sorted(words), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _boolean(text: str) -> bool:
    word = text.lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(text)
        return text.lower()

    return parse


def _names(text: str) -> tuple[str, ...]:
    """`auto` alone is no name at all."""
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if not name or not all(c.isalnum() or c in "-_." for c in name):
            raise ValueError(text)
    if names == ("auto",):
        return ()
    if "auto" in names:
        raise ValueError(text)
    return names


def _name(text: str) -> str:
    names = _names(text)
    if len(names) != 1:
        raise ValueError(text)
    return names[0]


def _memory(text: str) -> MemoryMode | None:
    return None if text.lower() == "none" else MemoryMode(_choice("preferred", "bind", "interleave", "local")(text))


def _nodes(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(p.isascii() and p.isdigit() and int(p) < MAX_ID for p in parts if len(p) < 7) or any(
        len(p) > 6 for p in parts
    ):
        raise ValueError(text)
    return tuple(int(p) for p in parts)


def _cpu_groups(text: str) -> tuple[CpuSet, ...]:
    groups = tuple(CpuSet.parse(part) for part in text.split("|"))
    if not all(groups):
        raise ValueError(text)
    return groups


def _cores(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ValueError(text)
    return int(text)


_BOOLEAN = "true, false, yes, no, on, off, 1, 0"

VARIABLES = (
    Variable("AFFINITY_STRATEGY", "strategies", _names, "auto, or strategy names separated by commas",
             "the strategy, or several in order of preference"),
    Variable("AFFINITY_POLICY", "policy", _name, "the name of a placement policy",
             "which CPUs a worker gets"),
    Variable("AFFINITY_MEMORY", "memory", _memory, "preferred, bind, interleave, local, none",
             "where a worker's pages go"),
    Variable("AFFINITY_NODES", "nodes", _nodes, "a node for each GPU in PCI order, e.g. 0,0,1,1",
             "the node of each GPU, over all detection"),
    Variable("AFFINITY_AUTO", "auto", _boolean, _BOOLEAN, "bind without being told a node"),
    Variable("AFFINITY_ENFORCE", "required", lambda t: _choice("best-effort", "required")(t) == "required",
             "best-effort, required", "whether an incomplete binding is an error"),
    Variable("AFFINITY_MIGRATE", "migrate", _boolean, _BOOLEAN, "move pages that were touched before the bind"),
    Variable("AFFINITY_DEVICES", "devices", _names, "auto, or provider names separated by commas",
             "who lists the GPUs"),
    Variable("AFFINITY_CPUS", "cpus", _cpu_groups, "a CPU list for each GPU in PCI order, e.g. 0-15|16-31",
             "the CPUs of policy `explicit`"),
    Variable("AFFINITY_SMT", "smt", _choice("all", "one"), "all, one", "hardware threads used of each core"),
    Variable("AFFINITY_SCOPE", "scope", _choice("node", "socket"), "node, socket", "what a split policy splits"),
    Variable("AFFINITY_RESERVE", "reserve", _cores, "a number of cores, e.g. 2",
             "cores of each node left free for the system"),
)  # fmt: skip

#: Names that earlier engines gave these settings; an AFFINITY_ variable wins over its alias.
ALIASES = (
    Variable("SGLANG_NUMA_BIND_V2", "v2", _boolean, _BOOLEAN, "0: the `legacy` strategy", "AFFINITY_STRATEGY"),
    Variable("SGLANG_AUTO_NUMA_BIND", "auto", _boolean, _BOOLEAN, "alias of AFFINITY_AUTO"),
    Variable("SGLANG_CRASH_ON_NUMA_BIND_FAILURE", "required", _boolean, _BOOLEAN, "1: AFFINITY_ENFORCE=required"),
    Variable("SGLANG_SET_CPU_AFFINITY", "policy", lambda t: "even" if _boolean(t) else None, _BOOLEAN,
             "1: AFFINITY_POLICY=even"),
)  # fmt: skip

#: AFFINITY_ names that are not the operator's to set.
INTERNAL = frozenset({"AFFINITY_BOUND"})
