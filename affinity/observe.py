"""Observe: the machine, this worker, the operator's flags."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from affinity.errors import SettingsError, UsageError
from affinity.handoff import Handoff, inherited_record, matching_record, own_record
from affinity.host import Host
from affinity.launchers.detect import Detected, detect
from affinity.launchers.launch import Launch, LaunchMode
from affinity.observation import Observation
from affinity.plugins import Plugins
from affinity.settings import Settings
from affinity.topology.cpuset import NodeSet
from affinity.variables import describe_unknown

if TYPE_CHECKING:
    from affinity.devices.gpu import Gpu
    from affinity.devices.inventory import Inventory
    from affinity.kernel.protocol import Process

#: What a caller may give as a GPU: a reference (see affinity.devices.references.resolve), or several.
GpuReference = str | int | Sequence[str | int] | None

#: How this process starts a worker of these modes, unless the caller names a method of `multiprocessing`.
_START_METHODS = {LaunchMode.SPAWN: "spawn", LaunchMode.COMMAND: "exec"}

#: The variables by which a process is shown some of the GPUs.
SELECTORS = frozenset(
    {
        "CUDA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "ZE_AFFINITY_MASK",
        "ONEAPI_DEVICE_SELECTOR",
    }
)

_STAYS = (
    "its parent is bound ({}) and assigned it no GPU: it stays where its parent is; name its GPU (gpu=…) to move it"
)


def observe(
    plugins: Plugins,
    *,
    gpu: GpuReference = None,
    node: int | None = None,
    launch_mode: LaunchMode | str | None = None,
    settings: Settings | None = None,
    host: Host | None = None,
    running: bool = False,
) -> Observation:
    """Read the machine, the launch and the settings; resolve which GPUs are this worker's.

    running: the worker is this process, whatever mode is given.
    """
    if gpu is not None and node is not None:
        raise UsageError(f"gpu={gpu!r} and node={node!r} were given: use either gpu=… or node=…, not both")
    host = host or Host.live()
    environ: Mapping[str, str] = {} if host.is_foreign else host.kernel.environ
    received = None if host.is_foreign else Handoff.received(host.kernel)
    passed = received.settings if received is not None else {}
    settings = settings or Settings.from_environ(environ, parent=passed)
    environ = {**environ, **passed}
    ignored = _ignored(settings, plugins)
    detected = _launch(launch_mode, host, plugins, started_bound=received is not None, running=running)
    launch, launcher = detected.launch, detected.launcher
    nodes = _given_node(node, host)
    known = None if host.is_foreign else own_record(host.kernel) or received
    stays = launch.start_method in ("", "exec")  # the worker is this process
    is_final = not launch.assigned or launch.local_rank is not None  # a worker that is no rank may get another GPU
    if gpu is None and nodes is None and stays and known is not None and is_final:
        gpu, nodes = known.gpus or None, known.nodes
    launch = attrs.evolve(launch, nodes=nodes or None, notes=(*launch.notes, *ignored))
    if nodes is not None:
        launch = attrs.evolve(launch, notes=(*launch.notes, *host.notes))
        return Observation(host, launch, settings, launcher, ignored, detected.faults)
    from affinity.devices.inventory import Inventory  # a worker that is given a node needs no GPU

    found = Inventory(host, settings, environ, plugins.devices)
    parent = _parents_record(host, detected) if gpu is None else None
    if parent is None:
        gpus, why = _worker_gpus(gpu, launch, found, required=settings.required)
    else:
        place = f"GPU {', '.join(parent.gpus)}" if parent.gpus else f"node {parent.nodes}"
        gpus, why = (), _STAYS.format(place)
    machine_gpus = found.machine  # before the notes: it may be what asks a driver
    notes = (*launch.notes, *host.notes, *found.notes, *([why] if why else ()))
    launch = attrs.evolve(launch, gpus=gpus, machine_gpus=machine_gpus, numbered_gpus=found.numbered, notes=notes)
    return Observation(host, launch, settings, launcher, ignored, detected.faults, stays=parent is not None)


def observe_other(
    plugins: Plugins, process: Process, host: Host, settings: Settings, *, gpu: GpuReference, node: int | None
) -> Observation:
    """Read the machine for another process, which runs; either its GPU or its node is given.

    host: the machine, and what that process may use of it. A GPU's ordinal counts as in this process.
    """
    ignored = _ignored(settings, plugins)
    launch = Launch(LaunchMode.ATTACH, f"process {process.pid} already runs", notes=ignored)
    nodes = _given_node(node, host)
    if nodes is not None:
        launch = attrs.evolve(launch, nodes=nodes, notes=(*ignored, *host.notes))
        return Observation(host, launch, settings, ignored=ignored, target=process)
    from affinity.devices.inventory import Inventory

    found = Inventory(host, settings, host.kernel.environ, plugins.devices)
    gpus, note = _worker_gpus(gpu, launch, found, required=settings.required)
    machine_gpus = found.machine
    notes = (*ignored, *host.notes, *found.notes, *([note] if note else ()))
    launch = attrs.evolve(launch, gpus=gpus, machine_gpus=machine_gpus, numbered_gpus=found.numbered, notes=notes)
    return Observation(host, launch, settings, ignored=ignored, target=process)


def given_gpus(plugins: Plugins, process: Process, host: Host, settings: Settings) -> tuple[str, ...]:
    """Return references to the GPUs that the environment or the launcher of another process gives it, if certain.

    () if they are not: no variable names them for this process alone, they are on several nodes, or may be others. What
    the process wrote into its environment after its start cannot be seen.
    """
    from affinity.devices.inventory import Inventory

    try:
        known = own_record(process) or Handoff.received(process)
        detected = detect(process, plugins.launchers)
        environ = process.environ
    except (OSError, UsageError):  # another user's process, or a variable that does not parse
        return ()
    if known is not None and known.gpus:
        return known.gpus
    launch = detected.launch
    if launch.assigned:
        return launch.assigned
    found = Inventory(host, settings, environ, plugins.devices)
    entries = found.visible_order.entries
    if launch.local_rank is not None:
        entries = entries[launch.local_rank : launch.local_rank + 1] if launch.local_size == len(entries) else ()
    elif not (detected.own if detected.launcher is not None else environ).keys() & SELECTORS:
        return ()
    if len({entry.unambiguous_gpu().node for entry in entries}) != 1 or entries[0].unambiguous_gpu().node is None:
        return ()
    gpus = dict.fromkeys(g for e in entries for g in ((e.gpu, *e.alternatives) if e.by_name else (e.gpu,)))
    return tuple(str(g.pci) if g.pci is not None else f"phys:{found.machine.index(g)}" for g in gpus)


def _given_node(node: int | None, host: Host) -> NodeSet | None:
    """Return the node that the caller gave, None if none was. Raise UsageError if it is not on the machine."""
    if node is None:
        return None
    number = parse_index(node, "node")
    if number not in host.topology.by_id:
        raise UsageError(f"node {number} is not on this machine: online nodes are {NodeSet(host.topology.by_id)}")
    return NodeSet([number])


def _ignored(settings: Settings, plugins: Plugins) -> tuple[str, ...]:
    """Return the warnings about variables that nothing reads.

    Raise PluginError if a plugin that is named is not installed; SettingsError for such a variable if binding is
    required.
    """
    plugins.require_named(settings)
    ignored = describe_unknown(plugins.unread(settings.options)) if settings.options else ()
    if ignored and settings.required:
        raise SettingsError(f"{'; '.join(ignored)}; an error under AFFINITY_ENFORCE=required: unset or correct it")
    return ignored


def _launch(
    launch_mode: LaunchMode | str | None, host: Host, plugins: Plugins, *, started_bound: bool, running: bool
) -> Detected:
    """Return how this worker was or will be started; `launch_mode` has precedence over what is detected.

    started_bound: it has a handoff of `spawning()`, and no launcher is loaded.
    """
    mode, named = _parse_mode(launch_mode, plugins)
    if named and host.is_foreign:
        found = Detected(Launch(plugins.launchers.get(named).mode, f"launcher {named} was named", named))
    elif host.is_foreign:
        found = Detected(Launch(LaunchMode.INLINE, "no process runs on this machine"))
    elif started_bound and not named:
        found = Detected(Launch(LaunchMode.SPAWN, "a child process of multiprocessing"))
    else:
        found = detect(host.kernel, plugins.launchers, named)
    launch = found.launch
    if mode is not None and mode is not launch.mode:
        launch = attrs.evolve(
            launch, mode=mode, reason="assumed for another machine" if host.is_foreign else "given by the caller"
        )
    start_method = "" if mode is None or running else _START_METHODS.get(mode, "")
    return found._replace(launch=attrs.evolve(launch, start_method=start_method))


def _parse_mode(text: LaunchMode | str | None, plugins: Plugins) -> tuple[LaunchMode | None, str]:
    """Return the launch mode, or the name of the installed launcher, that the caller gave."""
    if text is None or isinstance(text, LaunchMode):
        return text, ""
    try:
        return LaunchMode.parse(text), ""
    except UsageError as unknown:
        if text in plugins.launchers.names():
            return None, text
        raise UsageError(f"{unknown}, or a launcher: {', '.join(plugins.launchers.names())}") from None


def _parents_record(host: Host, detected: Detected) -> Handoff | None:
    """Return the bind of a parent in whose place this process stays, None if it has its own.

    A program that a bound rank started, as by a shell script, has the rank's variables and its mask, which is a limit:
    a policy that splits a node would split the rank's own share. A data loader has the mask and the memory policy of
    its rank, and no variable that names the rank's GPU. A child that was given a GPU has a rank of its own, or a
    variable that its parent does not have. Variables that the parent wrote into its own environment look like the
    child's own: they are not if the parent was bound with the same.
    """
    if detected.launcher is None:
        return None
    found = matching_record(host.kernel)
    if found is None and detected.launch.local_rank is not None:
        found = inherited_record(host.kernel)
    if found is None or found.by == host.kernel.identity():
        return None
    if detected.launcher.mode is LaunchMode.SPAWN and not detected.own.keys() & SELECTORS:
        return found
    given = gpu_variables(detected.launch, host.kernel.environ)
    return found if found.given == given else None


def gpu_variables(launch: Launch, environ: Mapping[str, str]) -> str:
    """Return what gives a process its GPUs, as text: the local rank, and the variables that select GPUs."""
    rank = () if launch.local_rank is None else (f"{launch.launcher}:{launch.local_rank}",)
    return " ".join((*rank, *(f"{name}={environ[name]}" for name in sorted(SELECTORS & environ.keys()))))


def parse_index(value: object, name: str) -> int:
    """Return a whole number, of any library's integer type. Raises UsageError for anything else."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if number < 0:
        other = " or a GPU's name (UUID, PCI address, phys:N, all)" if name == "gpu" else ""
        raise UsageError(f"{name}={value!r}: a whole number from 0 was expected{other}")
    return number


def _multi_node_note(gpus: Sequence[Gpu], whose: str) -> str:
    """Return the note on a worker with GPUs on different nodes, "" if they are on one."""
    nodes = {g.node for g in gpus}
    if len(nodes) < 2:
        return ""
    unknown = ", ".join(str(g) for g in gpus if g.node is None)
    but = f"; the node of {unknown} is not known and has no part in it" if unknown else ""
    return f"{whose} on several nodes: it is placed on all of these{but}"


def _worker_gpus(gpu: GpuReference, launch: Launch, found: Inventory, *, required: bool) -> tuple[tuple[Gpu, ...], str]:
    """Return this worker's GPUs and a note: those named, else those assigned, else by local rank, else all visible."""
    from affinity.devices.references import resolve_all

    if gpu is None and launch.assigned is not None:
        return _assigned_gpus(launch.launcher, launch.assigned, found, required=required)
    if gpu is None and launch.local_rank is not None and len(found.visible) > 1:
        return _gpus_of_rank(launch.local_rank, launch.local_size, found)
    if gpu is None:
        return found.visible, _multi_node_note(found.visible, "no GPU was named: all visible ones are this worker's,")
    named = gpu if isinstance(gpu, Iterable) and not isinstance(gpu, str | bytes) else [gpu]
    references = [r if isinstance(r, str) else parse_index(r, "gpu") for r in named]
    return resolve_all(references, found), ""


def _gpus_of_rank(rank: int, size: int | None, found: Inventory) -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs of a local rank among several visible ones, and a note.

    The rank is an index into them only if there is one for each worker. If not, each worker may see its own, or several
    may share them: then the GPUs of this one are among all that it sees.
    """
    from affinity.devices.references import resolve

    visible, count = found.visible, len(found.visible)
    if size == 1:
        return visible, _multi_node_note(visible, f"the only worker here has all {count} visible GPUs,")
    name = f"local rank {rank}" if size is None else f"local rank {rank} of {size}"
    if max(rank + 1, size or 0) > count:
        return visible, (
            f"{name} is no index into the {count} visible GPUs: it is placed next to all of them; name its GPU (gpu=…)"
        )
    if size is None or size == count:
        return resolve(rank, found), ""
    return resolve(rank, found), (
        f"{name} was taken as an index into the {count} visible GPUs: name its GPUs (gpu=…) if it uses others"
    )


def _assigned_gpus(
    launcher: str, assigned: Sequence[str], found: Inventory, *, required: bool
) -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs that the launcher assigned, and a note. A GPU that is not here is an error if `required`."""
    from affinity.devices.references import resolve_all
    from affinity.errors import UnknownGpuError

    if not assigned:
        return (), f"launcher {launcher} assigned no GPU to this worker: request one from it, or name it (gpu=…)"
    try:
        gpus = resolve_all(assigned, found)
    except UnknownGpuError as unknown:
        problem = f"launcher {launcher} assigned GPU {', '.join(assigned)}, which is not here ({unknown})"
        if required:
            raise UnknownGpuError(problem) from unknown
        return (), problem
    return gpus, _multi_node_note(gpus, "its GPUs are")
