"""Argument checks shared by commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from affinity.host import Host
    from affinity.settings import Settings


def settings(policy: str | None = None) -> Settings:
    """Return the settings from this process's environment, which apply to another machine too."""
    import os

    import attrs

    from affinity.settings import Settings

    parsed = Settings.from_environ(os.environ)
    if policy is None:
        return parsed
    return attrs.evolve(parsed, policy=policy, decided_by={**parsed.decided_by, "policy": f"--policy {policy}"})


def this_machine(host: Host, command: str) -> None:
    """Raise ForeignHostError if the command would act on another machine."""
    from affinity.errors import ForeignHostError

    if host.is_foreign:
        other = f"{host.topology.origin.value} ({host.topology.detail})"
        raise ForeignHostError(
            f"affinity {command} acts on this machine only, but another is given, {other}: use `affinity plan` for it"
        )


def node(host: Host, node: int | None) -> None:
    """Raise UsageError if the machine does not have the node."""
    from affinity.errors import UsageError
    from affinity.topology.cpuset import NodeSet

    if node is not None and node not in host.topology.by_id:
        raise UsageError(f"--node {node} is not on this machine: online nodes are {NodeSet(host.topology.by_id)}")


def mode(named: str | None, host: Host) -> str | None:
    """Return the launch mode to plan for: the named one, `spawn` for another machine, None to detect this process's."""
    return named or ("spawn" if host.is_foreign else None)


def one_place(gpu: str | None, node: int | None) -> None:
    """Raise UsageError if both a GPU and a node are given."""
    from affinity.errors import UsageError

    if gpu is not None and node is not None:
        raise UsageError("--gpu and --node are both given: use either --gpu or --node, not both")
