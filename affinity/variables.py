"""The operator's environment variables: how each is parsed and formatted, what it accepts, and what it means.

`VARIABLES` and `ALIASES` are the whole interface; `affinity explain` and docs/reference/settings.md are made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from typing import Any, Generic, NamedTuple, TypeVar, cast

from affinity.errors import ListFormatError, SettingsError
from affinity.kernel.mempolicy import MemoryMode
from affinity.topology.cpuset import MAX_ID, CpuSet

T = TypeVar("T")


class Variable(NamedTuple):
    """One environment variable.

    format: the inverse of `parse`; "" for a value that an unset variable has. overridden_by: a variable and its text.
    """

    name: str
    field: str
    parse: Callable[[str], Any]
    accepted: str
    meaning: str
    overridden_by: str = ""
    format: Callable[[Any], str] = str

    def read(self, text: str) -> Any:
        """Return its value. Raise SettingsError: variable, value, what is accepted, and the nearest match."""
        return _parsed(self, text)


class Option(NamedTuple, Generic[T]):
    """A variable of a plugin, `AFFINITY_<PLUGIN>_<OPTION>`: listed in the class's `options`, read by `Settings.option`.

    parse: from non-blank text; ValueError if it is not `accepted`. default: the value if the variable is unset.
    """

    name: str
    parse: Callable[[str], T]
    accepted: str
    meaning: str
    default: T

    def read(self, text: str) -> T:
        """Return its value. Raise SettingsError as for a built-in variable."""
        return cast(T, _parsed(self, text))


def _parsed(variable: Variable | Option[Any], text: str) -> Any:
    try:
        return variable.parse(text)
    except (ValueError, ListFormatError) as wrong:
        words = [w.strip(" `") for w in variable.accepted.split(",")]
        why = f" ({wrong})" if isinstance(wrong, ListFormatError) else ""
        expected = f"expected {variable.accepted}{suggestion(text.lower(), words)}"
        raise SettingsError(f"{variable.name}={text!r} does not parse{why}: {expected}") from None


def describe_unknown(names: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Return the warnings about AFFINITY_ variables that nothing reads: a line for each near miss, one for the rest.

    names: each with the variables of the plugins whose prefix it has. A Kubernetes Service named `affinity` sets
    AFFINITY_SERVICE_HOST, AFFINITY_PORT and more in every pod.
    """
    built_in = [v.name for v in VARIABLES]
    near = {name: _near_miss(name, names[name]) or _near_miss(name, built_in) for name in sorted(names)}
    warnings = [f"{name} is not a setting and is ignored{meant}" for name, meant in near.items() if meant]
    rest = [name for name, meant in near.items() if not meant]
    if rest:
        warnings.append(f"{', '.join(rest)}: no setting of this package or of an installed plugin; ignored")
    return tuple(warnings)


def _near_miss(name: str, known: Iterable[str]) -> str:
    """Return the suggestion for a variable among known ones, compared without the words that all begin with."""
    known = list(known)
    words = zip(*(other.split("_")[:-1] for other in (name, *known)), strict=False)
    prefix = "".join(f"{same[0]}_" for same in takewhile(lambda column: len(set(column)) == 1, words))
    return suggestion(name.removeprefix(prefix), [other.removeprefix(prefix) for other in known], prefix, 0.65)


def suggestion(text: str, words: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """Return "; did you mean …?" with the nearest of these words, "" if none is near."""
    import difflib

    close = difflib.get_close_matches(text, sorted(words), n=1, cutoff=cutoff)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


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
    if names == ("auto",):
        return ()
    for name in names:
        if name in ("", "auto") or not all(c.isalnum() or c in "-_." for c in name):
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
    if not all(p.isascii() and p.isdigit() and len(p) < 7 and int(p) < MAX_ID for p in parts):
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


def _joined(separator: str) -> Callable[[Any], str]:
    """Return a format for tuples; "" for one that is empty or None."""
    return lambda value: separator.join(map(str, value or ()))


def _flag_text(value: bool) -> str:
    return "1" if value else "0"


_BOOLEAN = "true, false, yes, no, on, off, 1, 0"

AUTOSTART = Variable("AFFINITY_AUTOSTART", "autostart", _boolean, _BOOLEAN,
                     "a worker with a local rank or a GPU of its launcher's binds itself at its start",
                     format=_flag_text)  # fmt: skip

VARIABLES = (
    Variable("AFFINITY_STRATEGY", "strategies", _names, "auto, or strategy names separated by commas",
             "the strategy, or several in order of preference", format=_joined(",")),
    Variable("AFFINITY_POLICY", "policy", _name, "the name of a placement policy",
             "which CPUs a worker gets"),
    Variable("AFFINITY_MEMORY", "memory", _memory, "preferred, bind, interleave, local, none",
             "where a worker's pages go", format=lambda mode: "none" if mode is None else mode.value),
    Variable("AFFINITY_NODES", "nodes", _nodes, "a node for each GPU in PCI order, e.g. 0,0,1,1",
             "the node of each GPU, over all detection", format=_joined(",")),
    Variable("AFFINITY_AUTO", "auto", _boolean, _BOOLEAN, "bind automatically to the detected node",
             format=_flag_text),
    Variable("AFFINITY_ENFORCE", "required", lambda t: _choice("best-effort", "required")(t) == "required",
             "best-effort, required", "whether an incomplete binding is an error",
             format=lambda required: "required" if required else "best-effort"),
    Variable("AFFINITY_MIGRATE", "migrate", _boolean, _BOOLEAN, "move pages that were touched before the bind",
             format=_flag_text),
    Variable("AFFINITY_DEVICES", "devices", _names, "auto, or provider names separated by commas",
             "the providers that list the GPUs", format=_joined(",")),
    Variable("AFFINITY_CPUS", "cpus", _cpu_groups, "a CPU list for each GPU in PCI order, e.g. 0-15|16-31",
             "the CPUs of policy `explicit`", format=_joined("|")),
    Variable("AFFINITY_SMT", "smt", _choice("all", "one"), "all, one", "hardware threads used of each core"),
    Variable("AFFINITY_SCOPE", "scope", _choice("node", "socket"), "node, socket",
             "whether a split policy divides a node's or a socket's cores"),
    Variable("AFFINITY_RESERVE", "reserve", _cores, "a number of cores, e.g. 2",
             "cores of each node left free for the system"),
    AUTOSTART,
)  # fmt: skip

V2 = Variable("SGLANG_NUMA_BIND_V2", "v2", _boolean, _BOOLEAN, "0: the `legacy` strategy", "AFFINITY_STRATEGY=auto",
               format=_flag_text)  # fmt: skip

#: Names that SGLang gave these settings; an AFFINITY_ variable wins over its alias.
ALIASES = (
    V2,
    Variable("SGLANG_CRASH_ON_NUMA_BIND_FAILURE", "required", _boolean, _BOOLEAN, "1: AFFINITY_ENFORCE=required",
             format=_flag_text),
    Variable("SGLANG_SET_CPU_AFFINITY", "policy", lambda t: "even" if _boolean(t) else None, _BOOLEAN,
             "1: AFFINITY_POLICY=even", format=lambda policy: "1" if policy == "even" else ""),
)  # fmt: skip

#: AFFINITY_ names that are not the operator's to set.
INTERNAL = frozenset({"AFFINITY_BOUND"})


def plugin_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the AFFINITY_ variables that are set and not built in."""
    known = {v.name for v in VARIABLES} | INTERNAL
    return {n: t.strip() for n, t in environ.items() if n.startswith("AFFINITY_") and n not in known and t.strip()}
