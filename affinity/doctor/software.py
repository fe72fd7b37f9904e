"""Programs, plugins and variables that a binding depends on, and those that work against it."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from affinity.collisions import find
from affinity.doctor.calls import ALLOW, KILLED, is_killed
from affinity.doctor.check import Check, Subject, Verdict
from affinity.errors import PluginError
from affinity.launchers.launch import LaunchMode
from affinity.support import call_supports

#: Strategies that need a program or a library of the system, and what is lost without it.
_TOOLS = {
    "numactl": "workers inherit the mask of the thread that starts them instead",
    "libnuma": "a running process sets its memory policy by the system call instead",
}


def check_container(subject: Subject) -> Iterator[Check]:
    """Yield the kind of container that this process is in. Sources: moby, podman and the Kubernetes API conventions."""
    environ = {} if subject.host.is_foreign else subject.host.kernel.environ
    signs = (
        ("Kubernetes", "KUBERNETES_SERVICE_HOST" in environ),
        ("Docker", subject.read(".dockerenv") is not None),
        ("Podman", subject.read("run/.containerenv") is not None),
    )
    found = [name for name, is_there in signs if is_there]
    if found:
        yield Check("container", ", ".join(found))


def check_tools(subject: Subject) -> Iterator[Check]:
    """Yield whether numactl and libnuma can be used; for another machine nothing."""
    if subject.host.is_foreign:
        return
    launch = attrs.evolve(subject.observation.launch, mode=LaunchMode.SPAWN)
    for name, lost in _TOOLS.items():
        try:
            strategy = subject.plugins.strategies.get(name)
        except PluginError:
            continue  # `plugins` has it
        if name == "libnuma" and is_killed(
            subject.host.kernel.libnuma_error, subject
        ):  # it makes calls as it is loaded
            yield Check(name, f"{KILLED}; {lost}", Verdict.NOTE, ALLOW)
            continue
        support = call_supports(strategy.supports, attrs.evolve(subject.observation, launch=launch))
        reason, found, remedy = support.reason.rpartition(": ")
        if support.ok:
            yield Check(name, "usable")
        elif found:
            yield Check(name, f"{reason}; {lost}", Verdict.NOTE, remedy)
        else:
            yield Check(name, f"{support.reason}; {lost}", Verdict.NOTE, f"install {name}")


def check_plugins(subject: Subject) -> Iterator[Check]:
    """Yield each plugin that is broken."""
    plugins = subject.plugins
    count = 0
    for registry in (plugins.strategies, plugins.policies, plugins.devices, plugins.launchers):
        for info in registry.list():
            count += not info.error
            if info.error:
                value, _, remedy = info.error.rpartition("; ")
                whose = f"uninstall or upgrade {info.distribution}"
                yield Check("plugin", value or info.error, Verdict.WARN, remedy if value else whose)
    yield Check("plugins", f"{count} can be loaded")


def check_variables(subject: Subject) -> Iterator[Check]:
    """Yield the variables that turn a binding off, are not read, or have an effect on it; none for another machine."""
    observation = subject.observation
    if not observation.settings.auto:
        value = observation.settings.decided_by.get("auto", "AFFINITY_AUTO=0")
        yield Check("automatic binding", f"off ({value})", Verdict.WARN, f"unset {value.partition('=')[0]}")
    for text in observation.ignored:
        yield Check("settings", text, Verdict.WARN, "correct or unset it")
    if subject.host.is_foreign:
        return
    environ = subject.host.kernel.environ
    for found in find(environ):
        row = found.collision
        yield Check("collision", f"{found.variable} ({row.owner}): {row.effect}", Verdict.WARN, row.use)
    for name in sorted(environ):
        if name.startswith("RAY_EXPERIMENTAL_NOSET_") and environ[name]:
            value = f"{name}: each worker sees all GPUs, and its GPU 0 is the machine's"
            yield Check("GPU selection", value, Verdict.WARN, "unset it, unless the program chooses its assigned GPU")
