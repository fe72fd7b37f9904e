"""Options shared by commands."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from affinity.host import Host
    from affinity.topology.cpuset import CpuSet, NodeSet

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", "CpuSet", "NodeSet")

gpu = click.option(
    "--gpu", metavar="REF", help="GPU as visible ordinal, UUID prefix, PCI address or phys:N; several with commas."
)
node = click.option("--node", type=click.IntRange(min=0), help="NUMA node, instead of a GPU.")
policy = click.option("--policy", metavar="NAME", help="Placement policy; overrides AFFINITY_POLICY.")
launch_mode = click.option(
    "--launch-mode", metavar="MODE", help="How the worker is started: spawn, command, inline, …, or a launcher's name."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/reference/json.md).")


def machine(command: F) -> F:
    """Add the options that select a machine, which is passed to the command as `host`."""

    @click.option(
        "--root",
        metavar="PATH",
        help="Another machine: a directory that contains sys/, or an archive of `affinity gather`.",
    )
    @click.option("--synthetic", metavar="TEXT", help="A machine in one line: 'pack:2 numa:2 core:4 pu:2 gpu:1'.")
    @click.option("--allowed-cpus", metavar="LIST", help="CPUs allowed on it, as 0-3,8 (default: all online).")
    @click.option("--allowed-nodes", metavar="LIST", help="Nodes whose memory is allowed on it (default: all online).")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        root: str | None,
        synthetic: str | None,
        allowed_cpus: str | None,
        allowed_nodes: str | None,
        **kwargs: Any,
    ) -> Any:
        return command(*args, host=_host(root, synthetic, allowed_cpus, allowed_nodes), **kwargs)

    return wrapped  # type: ignore[return-value]


def _host(root: str | None, synthetic: str | None, allowed_cpus: str | None, allowed_nodes: str | None) -> Host:
    from affinity.errors import UsageError
    from affinity.host import Host
    from affinity.topology.cpuset import CpuSet, NodeSet

    cpus = _list(CpuSet, "--allowed-cpus", allowed_cpus)
    nodes = _list(NodeSet, "--allowed-nodes", allowed_nodes)
    if root is not None and synthetic is not None:
        raise UsageError("--root and --synthetic are both given, each for a machine: use one of them")
    if root is not None:
        return Host.from_root(root, allowed_cpus=cpus, allowed_nodes=nodes)
    if synthetic is not None:
        return Host.synthetic(synthetic, allowed_cpus=cpus, allowed_nodes=nodes)
    if cpus is not None or nodes is not None:
        raise UsageError(
            "--allowed-cpus and --allowed-nodes need a machine given by --root or --synthetic: "
            "narrow this one with taskset or a cpuset"
        )
    return Host.live()


def _list(kind: type[S], option: str, text: str | None) -> S | None:
    from affinity.errors import ListFormatError

    try:
        return None if text is None else kind.parse(text)
    except ListFormatError as error:
        raise ListFormatError(f"{option}: {error}") from error
