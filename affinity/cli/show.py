"""`affinity show`: show the machine, and the CPUs and memory that this process may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from affinity.cli import _options, _output, _validate

if TYPE_CHECKING:
    from affinity.host import Host


@click.command()
@_options.machine
@_options.as_json
def command(*, host: Host, as_json: bool) -> None:
    """Show packages, NUMA nodes, CPUs, GPUs and distances, and the CPUs and memory that are allowed."""
    from affinity.observe import observe
    from affinity.plugins import Plugins
    from affinity.render import serialize

    observation = observe(Plugins(), gpu="all", settings=_validate.settings(), host=host)
    machine = serialize.machine(
        host, observation.launch.machine_gpus, observation.launch.gpus, observation.launch.notes
    )
    if as_json:
        _output.json(machine)
    else:
        _print(machine)


def _print(machine: dict[str, Any]) -> None:
    print(f"{machine['origin']} {machine['detail']}".rstrip("/ "))
    print(f"CPUs online {machine['online_cpus']}, allowed {machine['allowed_cpus'] or 'none'}")
    print(f"memory allowed on nodes {_ids(machine['allowed_nodes'])}\n")
    _output.table(
        "Packages",
        ("package", "nodes", "cores", "CPUs"),
        [(p["id"], _ids(p["nodes"]), p["cores"], p["cpus"]) for p in machine["packages"]],
    )
    nodes = machine["nodes"]
    _output.table(
        "Nodes",
        ("node", "CPUs", "allowed", "memory", "memory allowed", "GPUs"),
        [
            (n["id"], n["cpus"], n["allowed_cpus"], _size(n["memory"]), n["memory_allowed"], len(n["gpus"]))
            for n in nodes
        ],
    )
    if len(nodes) > 1:
        columns = [str(n["id"]) for n in nodes]
        _output.table(
            "Distances (10 is local)",
            ("node", *columns),
            [(n["id"], *(n["distances"].get(c) for c in columns)) for n in nodes],
        )
    if machine["gpus"]:
        _output.table(
            "GPUs",
            ("GPU", "vendor", "model", "UUID", "visible", "node", "reason"),
            [
                (g["name"], g["vendor"], g["model"], g["uuid"], g["visible"], g["node"], g["node_reason"])
                for g in machine["gpus"]
            ],
        )
    else:
        print("no GPU found")
    _output.lines("note", machine["notes"])


def _ids(nodes: list[int]) -> str:
    from affinity.topology.cpuset import NodeSet

    return str(NodeSet(nodes)) or "none"


def _size(size: int | None) -> str | None:
    return None if size is None else f"{size / 2**30:.1f} GiB"
