"""Options shared by commands."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from affinity.cli import _completion, _validate

F = TypeVar("F", bound=Callable[..., Any])

gpu = click.option(
    "--gpu",
    metavar="REF",
    shell_complete=_completion.gpus,
    help="GPU as visible ordinal, UUID prefix, PCI address or phys:N; several with commas.",
)
node = click.option("--node", type=click.IntRange(min=0), help="NUMA node, instead of a GPU.")
policy = click.option(
    "--policy", metavar="NAME", shell_complete=_completion.policies,
    help="Placement policy; overrides AFFINITY_POLICY.",
)  # fmt: skip
launch_mode = click.option(
    "--launch-mode",
    metavar="MODE",
    shell_complete=_completion.launch_modes,
    help="How the worker is started: spawn, command, inline, …, or a launcher's name.",
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; reference/json of the documentation has its keys."
)


def overrides(command: F) -> F:
    """Add the options that override variables; the command is passed `settings`."""

    @policy
    @click.option("--memory", metavar="MODE", shell_complete=_completion.memory,
                  help="Memory policy; overrides AFFINITY_MEMORY.")  # fmt: skip
    @click.option("--strategy", metavar="NAMES", shell_complete=_completion.strategies,
                  help="Strategy, or several with commas; overrides AFFINITY_STRATEGY.")  # fmt: skip
    @functools.wraps(command)
    def wrapped(*args: Any, policy: str | None, memory: str | None, strategy: str | None, **kwargs: Any) -> Any:
        settings = _validate.settings(policy, memory, strategy)
        return command(*args, settings=settings, **kwargs)

    return wrapped  # type: ignore[return-value]


def machine(command: F) -> F:
    """Add the options that select a machine, which is passed to the command as `host`."""

    @click.option(
        "--root",
        metavar="PATH",
        help="Another machine: a directory that contains sys/, or an archive of `affinity gather`.",
    )
    @click.option("--machine", metavar="NAME", shell_complete=_completion.machines,
                  help="A named machine; `affinity machines` lists them.")  # fmt: skip
    @click.option("--synthetic", metavar="TEXT", help="A machine in one line: 'pack:2 numa:2 core:4 pu:2 gpu:1'.")
    @click.option("--allowed-cpus", metavar="LIST", help="CPUs allowed on it, as 0-3,8 (default: all online).")
    @click.option("--allowed-nodes", metavar="LIST", help="Nodes whose memory is allowed on it (default: all online).")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        root: str | None,
        machine: str | None,
        synthetic: str | None,
        allowed_cpus: str | None,
        allowed_nodes: str | None,
        **kwargs: Any,
    ) -> Any:
        return command(*args, host=_validate.host(root, machine, synthetic, allowed_cpus, allowed_nodes), **kwargs)

    return wrapped  # type: ignore[return-value]
