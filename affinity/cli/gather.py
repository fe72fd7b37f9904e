"""`affinity gather`: write the topology of this machine to an archive, for bug reports and tests."""

from __future__ import annotations

import click


@click.command()
@click.argument("archive", default="machine.tar.gz")
@click.option("--root", default="/", metavar="DIR", help="Gather from a directory that contains sys/.")
def command(*, archive: str, root: str) -> None:
    """Write this machine's nodes, CPUs, caches, GPUs and network adapters to ARCHIVE (machine.tar.gz).

    Settings of its kernel are written too. It contains no host name, serial number, UUID or hardware address. Read it
    with `--root ARCHIVE`, or in a test with `affinity.testing.machines.load("ARCHIVE")`.
    """
    from affinity.errors import SystemFileError, UsageError
    from affinity.host import Host
    from affinity.topology.archive import write_archive

    try:
        paths = write_archive(archive, root)
    except SystemFileError:
        raise
    except OSError as refused:
        raise UsageError(f"{archive}: {refused.strerror}; name a new file in a writable directory") from refused
    topology = Host.from_root(archive).topology
    click.echo(
        f"{archive}: {len(paths)} files; {len(topology.nodes)} nodes, {len(topology.online)} CPUs, "
        f"{len(topology.pci_devices)} display or accelerator devices, {len(topology.nics)} network adapters"
    )
