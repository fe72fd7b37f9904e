"""Ask the installed launchers which of them started a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import attrs

from affinity.errors import AffinityError, PluginError
from affinity.kernel.protocol import Process
from affinity.launchers.launch import Launch, LaunchMode
from affinity.launchers.launcher import Launcher
from affinity.registry import Registry

T = TypeVar("T")


class Detected(NamedTuple):
    """launcher: the one that recognises the process, None for none. own: `own_variables`, where one does.

    faults: of launchers that are broken or raise; notes of the launch too.
    """

    launch: Launch
    launcher: Launcher | None = None
    own: Mapping[str, str] = MappingProxyType({})
    faults: tuple[str, ...] = ()


def detect(
    process: Process, launchers: Registry[Launcher], named: str = "", *, starter: Process | None = None
) -> Detected:
    """Ask the launchers; of several that recognise the process, the one with the smallest distance holds.

    named: the only launcher to ask; its mode holds even if it does not recognise the process. starter: the process
    whose variables do not count; default: the one that a launcher finds. A broken launcher is a note. Raises UsageError
    for a variable of a launcher that does not parse, PluginError if `named` is broken.
    """
    notes: list[str] = []
    asked = {named: launchers.get(named)} if named else _by_distance(launchers, notes)
    for name, launcher in asked.items():
        starter = starter or _answer(notes, name, launcher.starter, process)
    environ = own_variables(process, starter)
    for name, launcher in asked.items():
        launch = _answer(notes, name, launcher.detect, environ, process)
        if launch is not None and not isinstance(launch, Launch):
            notes.append(
                f"launcher {name} returned {launch!r:.40}; a Launch or None was expected: report it to its author"
            )
        elif launch is not None:
            launch = attrs.evolve(launch, launcher=name, notes=(*notes, *launch.notes))
            return Detected(launch, launcher, environ, tuple(notes))
    if named:
        reason = f"launcher {named} was named; it does not recognise this process"
        launch = Launch(asked[named].mode, reason, named, notes=tuple(notes))
        return Detected(launch, asked[named], environ, tuple(notes))
    launch = Launch(LaunchMode.INLINE, "no launcher recognises this process", notes=tuple(notes))
    return Detected(launch, faults=tuple(notes))


def is_launchers_own(program: str, launchers: Registry[Launcher]) -> bool:
    """Return whether a Python process that starts with this program belongs to a launcher; see `Launcher.autostart`."""
    broken: list[str] = []  # a bind reports these
    faults: list[str] = []
    asked = _by_distance(launchers, broken).items()
    found = any(_answer(faults, name, launcher.autostart, program) for name, launcher in asked)
    if faults:
        import logging  # most processes of an environment start no bind

        for fault in faults:
            logging.getLogger("affinity.launchers").warning("affinity: %s", fault)
    return found


def own_variables(process: Process, starter: Process | None) -> Mapping[str, str]:
    """Return the variables that were set for this process: those that its starter does not have with the same value.

    All of them if the starter is unknown or cannot be read. What the starter wrote into its own environment after its
    start cannot be seen, and counts as set for the process.
    """
    if starter is None:
        return process.environ
    try:
        inherited = starter.environ
    except OSError:  # another user's process, or it has ended
        return process.environ
    return {name: value for name, value in process.environ.items() if inherited.get(name) != value}


def _by_distance(launchers: Registry[Launcher], notes: list[str]) -> dict[str, Launcher]:
    usable: dict[str, Launcher] = {}
    for name in launchers.names():
        try:
            usable[name] = launchers.get(name)
        except PluginError as broken:
            notes.append(str(broken))
    return dict(sorted(usable.items(), key=lambda item: item[1].distance))


def _answer(notes: list[str], name: str, method: Callable[..., T], *arguments: object) -> T | None:
    """Return a launcher's answer; None and a note if it raises anything but an error of this package."""
    try:
        return method(*arguments)
    except AffinityError:
        raise
    except Exception as mistake:
        notes.append(f"launcher {name} raised {type(mistake).__name__}: {mistake}; report it to its author")
        return None
