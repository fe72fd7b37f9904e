"""Argument checks shared by commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from affinity.host import Host
    from affinity.settings import Settings


def settings(policy: str | None = None, memory: str | None = None, strategy: str | None = None) -> Settings:
    """Return the settings from this process's environment, which apply to another machine too, and from options.

    Raise SettingsError if a text does not parse: option or variable, value, what is accepted, and the nearest match.
    """
    import os

    import attrs

    from affinity.settings import Settings
    from affinity.variables import VARIABLES

    parsed = Settings.from_environ(os.environ)
    given = {"policy": ("--policy", policy), "memory": ("--memory", memory), "strategies": ("--strategy", strategy)}
    for field, (option, text) in given.items():
        if text is not None:
            variable = next(v for v in VARIABLES if v.field == field)
            value = variable._replace(name=option).read(text)
            decided = {**parsed.decided_by, field: f"{option} {text}"}
            parsed = attrs.evolve(parsed, decided_by=decided, **{field: value})
    return parsed


def mode(named: str | None, host: Host) -> str | None:
    """Return the launch mode to plan for: the named one, `spawn` for another machine, None to detect this process's."""
    return named or ("spawn" if host.is_foreign else None)


def one_place(gpu: str | None, node: int | None) -> None:
    """Raise UsageError if both a GPU and a node are given."""
    from affinity.errors import UsageError

    if gpu is not None and node is not None:
        raise UsageError("--gpu and --node are both given: use either --gpu or --node, not both")
