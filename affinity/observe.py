"""Observe: the machine, this worker, the operator's flags."""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from affinity.errors import SettingsError, UsageError
from affinity.handoff import Handoff, own_record
from affinity.host import Host
from affinity.kernel.linux import LinuxKernel
from affinity.launchers.launch import Launch, LaunchMode
from affinity.observation import Observation
from affinity.plugins import Plugins
from affinity.settings import Settings
from affinity.topology.cpuset import NodeSet
from affinity.variables import describe_unknown

if TYPE_CHECKING:
    from affinity.devices.gpu import Gpu
    from affinity.devices.inventory import Inventory

#: What a caller may say a GPU is: a reference (see affinity.devices.references.resolve), or several.
GpuReference = str | int | Sequence[str | int] | None

#: How this process starts a worker of these modes, unless the caller names a method of `multiprocessing`.
_START_METHODS = {LaunchMode.SPAWN: "spawn", LaunchMode.COMMAND: "exec"}


def observe(
    plugins: Plugins,
    *,
    gpu: GpuReference = None,
    node: int | None = None,
    launch_mode: LaunchMode | str | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
) -> Observation:
    """Read the machine, the launch and the settings; resolve which GPUs are this worker's."""
    host = host or Host.live()
    environ: Mapping[str, str] = {} if host.is_foreign else host.kernel.environ
    received = None if host.is_foreign else Handoff.received(host.kernel)
    parent = received.settings if received is not None else {}
    settings = settings or Settings.from_environ(environ, parent=parent)
    environ = {**environ, **parent}
    ignored = describe_unknown(plugins.without_reader(settings.options)) if settings.options else ()
    if ignored and settings.required:
        raise SettingsError(f"{'; '.join(ignored)}; an error under AFFINITY_ENFORCE=required: unset or correct it")
    assigned = _ray_ids(environ)
    ray_worker = assigned is not None if isinstance(host.kernel, LinuxKernel) else None
    around = _within_ray(environ) if ray_worker is False else environ
    launch = Launch.detect(around, spawned=received is not None or _is_mp_child(host), ray_worker=ray_worker)
    if launch_mode is not None:
        mode = launch_mode if isinstance(launch_mode, LaunchMode) else LaunchMode.parse(launch_mode)
        if mode is not launch.mode:
            launch = attrs.evolve(launch, mode=mode, reason="asked for by the caller")
        launch = attrs.evolve(launch, start_method=_START_METHODS.get(mode, ""))
    nodes = NodeSet([parse_index(node, "node")]) if node is not None else None
    known = None if host.is_foreign else received or own_record(host.kernel)
    if gpu is None and nodes is None and launch.start_method == "" and known is not None:
        gpu, nodes = known.gpus or None, known.nodes
    launch = attrs.evolve(launch, nodes=nodes or None, notes=ignored)
    if nodes is not None:
        return Observation(host, launch, settings)
    from affinity.devices.inventory import Inventory  # a worker that is given a node needs no GPU

    found = Inventory(host, settings, environ, plugins.devices)
    if gpu is None and assigned is not None:
        mine, why = _given_by_ray(assigned, found, settings)
    else:
        mine, why = _worker_gpus(gpu, launch, found)
    machine_gpus = found.machine  # before the notes: it may be what asks a driver
    notes = (*launch.notes, *found.notes, *([why] if why else ()))
    return Observation(host, attrs.evolve(launch, gpus=mine, machine_gpus=machine_gpus, notes=notes), settings)


def parse_index(value: object, name: str) -> int:
    """A whole number of any library's; UsageError for anything else."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if number < 0:
        other = " or a GPU's name (UUID, PCI address, phys:N, all)" if name == "gpu" else ""
        raise UsageError(f"{name}={value!r}: a whole number from 0 was expected{other}")
    return number


def _is_mp_child(host: Host) -> bool:
    """Whether multiprocessing started this very process; a simulated one was started by nobody."""
    process = sys.modules.get("multiprocessing.process")
    return isinstance(host.kernel, LinuxKernel) and process is not None and process.parent_process() is not None


def _within_ray(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Beneath a Ray worker, without what its raylet has too: who started `ray start` did not start this process."""
    raylet = environ.get("RAY_RAYLET_PID", "")
    if not raylet.isdecimal():
        return environ
    try:
        with open(f"/proc/{raylet}/environ", "rb") as file:
            around = set(file.read().split(b"\0"))
    except OSError:  # another user's, or not in this container
        return environ
    return {name: value for name, value in environ.items() if os.fsencode(f"{name}={value}") not in around}


def _ray_ids(environ: Mapping[str, str]) -> list[str] | None:
    """The ids of the GPUs Ray gave this process, its worker; None for any other. The core never imports ray."""
    if "ray" not in sys.modules or "RAY_JOB_ID" not in environ:
        return None
    from affinity.integrations.ray import accelerator_ids

    return accelerator_ids()


def _given_by_ray(ids: Sequence[str], found: Inventory, settings: Settings) -> tuple[tuple[Gpu, ...], str]:
    """Ray may count GPUs that nobody can list (ray.init(num_gpus=…)): an error only where binding is required."""
    from affinity.devices.references import resolve_physical
    from affinity.errors import UnknownGpuError

    if not ids:
        return (), "Ray gave this worker no GPU: ask for one (num_gpus=1) or name it (gpu=…)"
    try:
        mine = resolve_physical(ids, found)
    except UnknownGpuError as unknown:
        if settings.required:
            raise
        return (), f"Ray gave this worker GPU {', '.join(ids)}, but {unknown}"
    return mine, _multi_node_note(mine, "its GPUs are")


def _multi_node_note(gpus: Sequence[Gpu], whose: str) -> str:
    """What an operator should know of a worker with GPUs in different places; "" where there is one."""
    nodes = {g.node for g in gpus}
    if len(nodes) < 2:
        return ""
    unknown = ", ".join(str(g) for g in gpus if g.node is None)
    told = f"; the node of {unknown} is not known, so it counts for nothing" if unknown else ""
    return f"{whose} on several nodes: it is placed on all of these{told}"


def _worker_gpus(gpu: GpuReference, launch: Launch, found: Inventory) -> tuple[tuple[Gpu, ...], str]:
    """This worker's GPUs: those named, else the launcher's rank, else all it can see."""
    from affinity.devices.references import resolve

    if gpu is None and launch.local_rank is not None and launch.local_rank >= len(found.visible) > 1:
        return (), f"local rank {launch.local_rank} of more than the {len(found.visible)} GPUs: name its GPU (gpu=…)"
    if gpu is None and launch.local_rank is not None and len(found.visible) > 1:
        gpu = launch.local_rank
    if gpu is None:
        return found.visible, _multi_node_note(found.visible, "no GPU was named: all visible ones are this worker's,")
    named = gpu if isinstance(gpu, Iterable) and not isinstance(gpu, str | bytes) else [gpu]
    references = [r if isinstance(r, str) else parse_index(r, "gpu") for r in named]
    return tuple(dict.fromkeys(g for r in references for g in resolve(r, found))), ""
