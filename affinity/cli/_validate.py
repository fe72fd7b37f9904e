"""Argument checks shared by commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from affinity.host import Host
    from affinity.settings import Settings
    from affinity.topology.cpuset import CpuSet, NodeSet

S = TypeVar("S", "CpuSet", "NodeSet")


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


def host(
    root: str | None = None,
    machine: str | None = None,
    synthetic: str | None = None,
    allowed_cpus: str | None = None,
    allowed_nodes: str | None = None,
) -> Host:
    """Return the machine that options name, this one if none does. Raise UsageError if they contradict each other."""
    from affinity.errors import UsageError
    from affinity.host import Host
    from affinity.topology.cpuset import CpuSet, NodeSet

    cpus = _list(CpuSet, "--allowed-cpus", allowed_cpus)
    nodes = _list(NodeSet, "--allowed-nodes", allowed_nodes)
    named = {"--root": root, "--machine": machine, "--synthetic": synthetic}
    given = [option for option, text in named.items() if text is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are given, each for a machine: use one of them")
    if root is not None:
        return Host.from_root(root, allowed_cpus=cpus, allowed_nodes=nodes)
    if synthetic is not None:
        return Host.synthetic(synthetic, allowed_cpus=cpus, allowed_nodes=nodes)
    if machine is not None:
        from affinity.testing import machines

        return machines.host(machine, allowed_cpus=cpus, allowed_nodes=nodes)
    if cpus is not None or nodes is not None:
        raise UsageError(
            "--allowed-cpus and --allowed-nodes need a machine given by --root, --machine or --synthetic: "
            "narrow this one with taskset or a cpuset"
        )
    return Host.live()


def _list(kind: type[S], option: str, text: str | None) -> S | None:
    from affinity.errors import ListFormatError

    try:
        return None if text is None else kind.parse(text)
    except ListFormatError as error:
        raise ListFormatError(f"{option}: {error}") from error
