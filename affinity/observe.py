"""Observe: the machine, this worker, the operator's flags."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import attrs

from affinity.gpus import Inventory, inventory, resolve
from affinity.host.cpuset import NodeSet
from affinity.host.devices import Gpu
from affinity.host.host import Host
from affinity.host.kernel import LinuxKernel
from affinity.host.origin import spawn_note
from affinity.launch import Launch, LaunchMode
from affinity.plugins import Plugins
from affinity.settings import Settings

#: What a caller may say a GPU is: a reference (see affinity.gpus.resolve), or several.
GpuRef = str | int | Sequence[str | int] | None


@attrs.frozen
class Seen:
    """All that placing and selecting may look at."""

    host: Host
    launch: Launch
    settings: Settings
    plugins: Plugins = attrs.field(repr=False, eq=False)


def observe(
    *,
    gpu: GpuRef = None,
    node: int | None = None,
    launch_mode: LaunchMode | str | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
) -> Seen:
    """Read the machine, the launch and the settings; resolve which GPUs are this worker's."""
    host = host or Host.live()
    environ: Mapping[str, str] = {} if host.foreign else host.kernel.environ
    settings = settings or Settings.from_environ(environ)
    plugins = Plugins()
    note = None if host.foreign else spawn_note(host.kernel)
    launch = Launch.detect(environ, spawned=note is not None or _is_mp_child(host))
    if launch_mode is not None:
        mode = launch_mode if isinstance(launch_mode, LaunchMode) else LaunchMode.parse(launch_mode)
        if mode is not launch.mode:
            launch = attrs.evolve(launch, mode=mode, why="asked for by the caller")
    nodes = NodeSet([node]) if node is not None else None
    if gpu is None and nodes is None and note is not None and note.worker:
        kind, _, named = note.worker.partition("node:")
        gpu, nodes = (kind, None) if kind else (None, NodeSet.parse(named))
    if nodes is not None:
        return Seen(host, attrs.evolve(launch, nodes=nodes or None), settings, plugins)
    found = inventory(host, settings, environ, plugins.devices)
    mine, why = _own_gpus(gpu, launch, found)
    notes = (*found.notes, *([why] if why else ()))
    return Seen(host, attrs.evolve(launch, gpus=mine, peers=found.devices, notes=notes), settings, plugins)


def _is_mp_child(host: Host) -> bool:
    """Whether multiprocessing started this very process; a simulated one was started by nobody."""
    process = sys.modules.get("multiprocessing.process")
    return isinstance(host.kernel, LinuxKernel) and process is not None and process.parent_process() is not None


def _own_gpus(gpu: GpuRef, launch: Launch, found: Inventory) -> tuple[tuple[Gpu, ...], str]:
    """This worker's GPUs: those named, else the launcher's rank, else all it can see."""
    if gpu is None and launch.local_rank is not None and len(found.visible) > 1:
        gpu = launch.local_rank
    if gpu is None:
        several = len({g.node for g in found.visible}) > 1
        return found.visible, "no GPU was named: all visible ones are this worker's" if several else ""
    references = [gpu] if isinstance(gpu, str | int) else list(gpu)
    return tuple(dict.fromkeys(g for r in references for g in resolve(r, found))), ""
