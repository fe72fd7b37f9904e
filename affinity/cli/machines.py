"""`affinity machines`: list the named machines."""

from __future__ import annotations

import click

from affinity.cli import _options, _output


@click.command()
@_options.as_json
def command(*, as_json: bool) -> None:
    """List the named machines, which other commands take by --machine: nodes, CPUs, GPUs' nodes, and the source.

    A GPU without a node, which PCI shows as -1, is `-`.
    """
    from affinity.render import serialize
    from affinity.testing import machines

    found = [serialize.named_machine(machines.get(name)) for name in machines.names()]
    if as_json:
        return _output.json({"version": serialize.VERSION, "machines": found})
    return _output.table(
        "",
        ("machine", "nodes", "CPUs", "GPUs on nodes", "source"),
        [
            (
                m["name"],
                _output.ids(m["nodes"]),
                m["cpus"],
                ",".join("-" if node is None else str(node) for node in m["gpu_nodes"]) or "none",
                m["source"],
            )
            for m in found
        ],
        optional=("source",),
    )
