"""What several commands ask and refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from affinity.host import Host
    from affinity.settings import Settings


def settings(policy: str | None = None) -> Settings:
    """The operator's flags, from this process's environment also where the machine is another one."""
    import os

    import attrs

    from affinity.settings import Settings

    found = Settings.from_environ(os.environ)
    if policy is None:
        return found
    return attrs.evolve(found, policy=policy, decided_by={**found.decided_by, "policy": f"--policy {policy}"})


def this_machine(host: Host, command: str) -> None:
    """Refuse what would act on a machine that is not this one. Raises ForeignHostError."""
    from affinity.errors import ForeignHostError

    if host.is_foreign:
        where = f"{host.topology.origin.value} ({host.topology.detail})"
        raise ForeignHostError(
            f"affinity {command} acts on this machine, and the {where} is not it: use `affinity plan` for that one"
        )


def node(host: Host, node: int | None) -> None:
    """Refuse a node that the machine does not have, as a GPU is that it does not have. Raises UsageError."""
    from affinity.errors import UsageError
    from affinity.topology.cpuset import NodeSet

    if node is not None and node not in host.topology.by_id:
        raise UsageError(f"--node {node} is not on this machine: online nodes are {NodeSet(host.topology.by_id)}")


def mode(named: str | None, host: Host) -> str | None:
    """The launch mode to plan for: the one named, else this process's own; elsewhere, where none runs, `spawn`."""
    return named or ("spawn" if host.is_foreign else None)


def exactly_one_place(gpu: str | None, node: int | None, *, needed: bool = False) -> None:
    """Refuse a worker that is named twice, or, where it is needed, not at all. Raises UsageError."""
    from affinity.errors import UsageError

    if gpu is not None and node is not None:
        raise UsageError("--gpu and --node name the worker's place twice: give one of them")
    if needed and gpu is None and node is None:
        raise UsageError("no place is named: expected --gpu REF or --node N before the command")
