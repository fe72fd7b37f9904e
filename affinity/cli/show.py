"""`affinity show`: show the machine, and the CPUs and memory that this process may use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from affinity.cli import _options, _output, _validate

if TYPE_CHECKING:
    from affinity.host import Host

_LEGEND = """\
PIX   one PCI bridge or switch at most
PXB   several PCI bridges
PHB   a PCI host bridge (the CPU)
NODE  several host bridges of one NUMA node
SYS   the interconnect between NUMA nodes
-     not known
"""


@click.command()
@_options.machine
@_options.as_json
def command(*, host: Host, as_json: bool) -> None:
    """Show packages, NUMA nodes with their memory and distances, caches, GPUs and network adapters.

    Of each GPU the adapter that is nearest to it; of the CPUs and the memory those that this process may use.
    """
    from affinity.observe import observe
    from affinity.plugins import Plugins
    from affinity.render import serialize

    observation = observe(Plugins(), gpu="all", settings=_validate.settings(), host=host)
    machine = serialize.machine(host, observation.launch)
    if as_json:
        _output.json(machine)
    else:
        _print(machine)


def _print(machine: dict[str, Any]) -> None:
    nodes, gpus, nics = machine["nodes"], machine["gpus"], machine["nics"]
    _output.line("this machine" if machine["origin"] == "live" else f"{machine['origin']} {machine['detail']}")
    _output.line(f"CPUs online {machine['online_cpus']}, allowed {machine['allowed_cpus'] or 'none'}")
    _output.line(f"memory allowed on nodes {_output.ids(n['id'] for n in nodes if n['memory_allowed'])}")
    print()
    _output.table(
        "Packages",
        ("package", "nodes", "cores", "CPUs"),
        [(p["id"], _output.ids(p["nodes"]), p["cores"], p["cpus"]) for p in machine["packages"]],
    )
    with_something = [n for n in nodes if not _is_empty(n, nics)]
    _output.table(
        "Nodes",
        ("node", "CPUs", "allowed", "memory", "free", "memory allowed", "GPUs", "NICs"),
        [
            (
                n["id"],
                n["cpus"],
                n["allowed_cpus"],
                _size(n["memory"]),
                _size(n["memory_free"]),
                n["memory_allowed"],
                len(n["gpus"]),
                sum(nic["node"] == n["id"] for nic in nics),
            )
            for n in with_something
        ],
        optional=("NICs",),
    )
    if len(with_something) < len(nodes):
        empty = _output.ids(n["id"] for n in nodes if _is_empty(n, nics))
        _output.line(f"nodes without CPUs, memory and devices: {empty}")
        print()
    if len(with_something) > 1:
        columns = [str(n["id"]) for n in with_something]
        rows = [(n["id"], *(n["distances"].get(c) for c in columns)) for n in with_something]
        _output.matrix("Distances (10 is local)", ("node", *columns), rows)
    if machine["caches"]:
        _output.table(
            "Caches",
            ("cache", "size", "number", "CPUs of the first"),
            [(_cache_name(c), _size(c["size"]), len(c["cpus"]), c["cpus"][0]) for c in machine["caches"]],
        )
    if gpus:
        _output.table(
            "GPUs",
            ("GPU", "address", "node", "nearest NIC", "visible", "name", "vendor", "UUID", "reason of the node"),
            [
                (
                    g["reference"],
                    g["name"],
                    g["node"],
                    _nearest(g),
                    g["visible"],
                    g["model"],
                    g["vendor"],
                    g["uuid"],
                    g["node_reason"],
                )
                for g in gpus
            ],
            optional=("UUID", "reason of the node", "vendor", "name"),
        )
    else:
        print("no GPU found\n")
    if nics:
        _output.table(
            "NICs",
            ("NIC", "address", "node", "RDMA devices", "interfaces"),
            [
                (n["name"], n["pci_bus_id"], n["node"], ", ".join(n["rdma_devices"]), ", ".join(n["interfaces"]))
                for n in nics
            ],
        )
    if gpus and len(gpus) + len(nics) > 1:
        names = [*((g["reference"], g["name"]) for g in gpus), *((n["name"], n["name"]) for n in nics)]
        rows = [(g["reference"], *("X" if g["name"] == n else g["links"][n] for _, n in names)) for g in gpus]
        _output.matrix(
            "Links by PCI, as in nvidia-smi topo -m; NVLink and xGMI are not seen here",
            ("GPU", *(head for head, _ in names)),
            rows,
        )
        print(_LEGEND)
    _output.lines("note", machine["notes"])


def _is_empty(node: dict[str, Any], nics: Sequence[dict[str, Any]]) -> bool:
    """Return whether nothing is on a node, as on a GPU's memory nodes that MIG would use."""
    return not (node["cpus"] or node["memory"] or node["gpus"] or any(nic["node"] == node["id"] for nic in nics))


def _nearest(gpu: dict[str, Any]) -> str:
    """Return the adapters next to a GPU, and the link to them."""
    names = gpu["nearest_nics"]
    return f"{', '.join(names)} {gpu['links'][names[0]]}" if names else ""


def _cache_name(cache: dict[str, Any]) -> str:
    """Return a cache's name as lstopo has it: L1d, L1i, L2, L3."""
    return f"L{cache['level']}" + {"data": "d", "instruction": "i"}.get(cache["type"], "")


def _size(size: int | None) -> str | None:
    """Return a size as lstopo has it, a node's memory in GiB."""
    if size is None:
        return None
    return f"{size / 2**30:.1f}GiB" if size >= 2**30 else f"{size >> 20}MiB" if size >= 2**20 else f"{size >> 10}KiB"
