"""Conversion of values to the JSON of `--json`: dicts, lists, numbers and text. Reference: docs/reference/json.md.

CPUs are text in the kernel's list format (`0-3,8`), nodes are lists of numbers, sizes are bytes and times are seconds;
null means unknown or unchanged. Each top-level object has a `version`; within a version keys are only added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from affinity.errors import SettingsError
from affinity.kernel.pages import share_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from affinity.api import Plan
    from affinity.benchmark.comparison import Comparison
    from affinity.benchmark.server import Measurement
    from affinity.collisions import Found
    from affinity.degradation import Degradation
    from affinity.devices.gpu import Gpu
    from affinity.doctor import Check
    from affinity.external import Attachment
    from affinity.host import Host
    from affinity.kernel.mempolicy import MemoryPolicy
    from affinity.launchers.launch import Launch
    from affinity.policies.placement import Placement
    from affinity.registry import PluginInfo
    from affinity.report.observed import Observed
    from affinity.report.processes import GpuProcess
    from affinity.report.report import BindReport
    from affinity.selection.rules import Verdict
    from affinity.settings import Settings
    from affinity.support import Support
    from affinity.testing.machines.model import Machine
    from affinity.topology.cpuset import CpuSet, NodeSet
    from affinity.topology.model import Nic, Topology
    from affinity.variables import Option, Variable

#: Version of every object here. It changes only if a key changes its meaning or is removed.
VERSION = 1

Shape = dict[str, Any]


def gpu(found: Gpu) -> Shape:
    """Return a GPU and its node."""
    return {
        "name": str(found),
        "pci_bus_id": str(found.pci) if found.pci is not None else None,
        "uuid": found.uuid,
        "vendor": found.vendor,
        "model": found.model,
        "node": found.node,
        "node_reason": found.node_reason,
    }


def memory(policy: MemoryPolicy | None) -> Shape:
    """Return a memory policy; mode `none` if it is unchanged."""
    if policy is None:
        return {"mode": "none", "nodes": []}
    return {"mode": policy.mode.value, "nodes": ids(policy.nodes)}


def placement(placed: Placement | None) -> Shape:
    """Return the keys of a placement: `nodes`, `cpus`, `memory`, `placement_reason`."""
    return {
        "nodes": ids(placed.nodes) if placed else [],
        "cpus": cpus(placed.cpus) if placed else None,
        "memory": memory(placed.memory if placed else None),
        "placement_reason": placed.reason if placed else "",
    }


def plan(planned: Plan) -> Shape:
    """Return the plan of one worker: its GPU, its placement, and the strategy."""
    launch, selection = planned.launch, planned.selection
    alone = launch.gpus[0] if len(launch.gpus) == 1 else None
    node = alone.node if alone else None
    if launch.nodes is not None and len(launch.nodes) == 1:
        node = launch.nodes.first()
    return {
        "version": VERSION,
        "gpu": gpu(alone) if alone else None,
        "gpus": [gpu(g) for g in launch.gpus],
        "references": list(map(launch.reference, launch.gpus)),
        "node": node,
        **placement(planned.placement),
        "strategy": selection.strategy,
        "fallbacks": list(selection.fallbacks),
        "reason": selection.reason,
        "problem": planned.problem or None,
        "policy": planned.observation.settings.policy,
        "launch_mode": launch.mode.value,
        "launch_reason": launch.reason,
        "launcher": launch.launcher or None,
        "notes": list(launch.notes),
    }


def explanation(planned: Plan, settings: Sequence[Shape], collisions: Sequence[Found]) -> Shape:
    """Return a plan, the verdict of every rule, what decided each setting, and the collisions found."""
    return {
        **plan(planned),
        "rules": [verdict(v) for v in planned.selection.verdicts],
        "skipped": [{"strategy": name, "reason": reason} for name, reason in planned.selection.skipped],
        "settings": list(settings),
        "collisions": [collision(found) for found in collisions],
    }


def collision(found: Found) -> Shape:
    row = found.collision
    return {
        "variable": found.variable,
        "switch": row.switch,
        "owner": row.owner,
        "effect": row.effect,
        "use": row.use,
        "source": row.source,
    }


def examination(checks: Sequence[Check]) -> Shape:
    """Return the checks of `affinity doctor`."""
    return {"version": VERSION, "checks": [check(found) for found in checks]}


def check(found: Check) -> Shape:
    return {
        "name": found.name,
        "value": found.value,
        "verdict": found.verdict.value,
        "remedy": found.remedy or None,
    }


def verdict(line: Verdict) -> Shape:
    return {"rule": line.rule, "condition": line.condition, "applies": line.applies, "reason": line.reason}


def setting(variable: Variable, found: Settings, names: Iterable[str] = ()) -> Shape:
    """Return one setting. `decided_by`: the variable and its text, or the option; null for the default.

    names: of the plugins that may be named in it.
    """
    value = getattr(found, variable.field)
    return {
        "setting": variable.field,
        "variable": variable.name,
        "meaning": variable.meaning,
        "value": "none" if variable.field == "memory" and value is None else plain(value),
        "text": variable.format(value) or ("auto" if variable.accepted.startswith("auto") else ""),
        "decided_by": found.decided_by.get(variable.field),
        "accepted": f"{variable.accepted}: {', '.join(names)}" if names else variable.accepted,
    }


def option(option: Option[Any], found: Settings) -> Shape:
    """Return a plugin's variable: the keys of a setting, and the error of a malformed text."""
    value, error = None, None
    try:
        value = found.option(option)
    except SettingsError as malformed:
        error = str(malformed)
    return {
        "setting": "options",
        "variable": option.name,
        "meaning": option.meaning,
        "value": plain(value),
        "text": found.options.get(option.name, ""),
        "decided_by": found.decided_by.get(option.name),
        "accepted": option.accepted,
        "error": error,
    }


def machine(host: Host, launch: Launch) -> Shape:
    """Return the machine, and the CPUs and memory that this process may use. launch: of a worker with every GPU."""
    from affinity.devices.links import nic_node

    topology, shown = host.topology, {g: g for g in launch.gpus}
    # Where files have every node, only those that the worker may use were asked of a driver, for model and UUID.
    gpus = tuple(g.merge(shown[g]) if g in shown else g for g in launch.machine_gpus)
    packages: dict[int, int] = {}
    for cpu in topology.cpus.values():
        packages[cpu.package] = packages.get(cpu.package, 0) | 1 << cpu.id
    whole = type(topology.online).from_bits
    return {
        "version": VERSION,
        "origin": topology.origin.value,
        "detail": topology.detail,
        "online_cpus": cpus(topology.online),
        "allowed_cpus": cpus(host.allowed_cpus),
        "allowed_nodes": ids(host.allowed_nodes),
        "packages": [
            {
                "id": package,
                "cpus": cpus(whole(bits)),
                "nodes": ids(topology.nodes_of(whole(bits))),
                "cores": len({topology.cpus[c].core for c in whole(bits)}),
            }
            for package, bits in sorted(packages.items())
        ],
        "nodes": [
            {
                "id": node.id,
                "cpus": cpus(node.cpus),
                "allowed_cpus": cpus(node.cpus & host.allowed_cpus),
                "cores": cores(node.cpus, topology),
                "memory": topology.memory.get(node.id),
                "memory_free": topology.free_memory.get(node.id),
                "memory_allowed": node.has_memory and node.id in host.allowed_nodes,
                "distances": {str(other): distance for other, distance in topology.distances.get(node.id, {}).items()},
                "gpus": [str(g) for g in gpus if g.node == node.id],
            }
            for node in topology.nodes
        ],
        "caches": caches(topology),
        "gpus": [
            {
                "reference": launch.reference(g),
                **gpu(g),
                "visible": g in launch.gpus,
                **links(g, gpus, topology),
            }
            for g in gpus
        ],
        "nics": [
            {
                "name": str(nic),
                "pci_bus_id": str(nic.address),
                "rdma_devices": list(nic.rdma),
                "interfaces": list(nic.interfaces),
                "node": nic_node(nic, topology),
            }
            for nic in topology.nics
        ],
        "notes": list(dict.fromkeys((*launch.notes, *host.notes))),  # last: what was read above may add some
    }


def named_machine(found: Machine) -> Shape:
    """Return the shape of a machine of `affinity.testing.machines`."""
    return {
        "name": found.name,
        "nodes": [node.id for node in found.nodes],
        "cpus": str(found.present),
        "gpu_nodes": list(found.gpu_nodes),
        "source": found.source,
    }


def cores(among: CpuSet, topology: Topology) -> list[str]:
    """Return the CPUs of each physical core, of those given."""
    found: dict[int, int] = {}
    for cpu in among:
        core = topology.cpus[cpu].core if cpu in topology.cpus else cpu
        found[core] = found.get(core, 0) | 1 << cpu
    return [str(type(among).from_bits(bits)) for _, bits in sorted(found.items())]


def caches(topology: Topology) -> list[Shape]:
    """Return the caches, those of one level, type and size together."""
    alike: dict[tuple[int, str, int | None], list[str]] = {}
    for cache in topology.caches:
        alike.setdefault((cache.level, cache.type, cache.size), []).append(str(cache.cpus))
    return [
        {"level": level, "type": kind, "size": size, "cpus": shared} for (level, kind, size), shared in alike.items()
    ]


def links(found: Gpu, gpus: Sequence[Gpu], topology: Topology) -> Shape:
    """Return the links of a GPU to the other GPUs and to each network adapter, and the adapters next to it."""
    from affinity.devices.links import link, nearest_nics

    nearest, _ = nearest_nics(found, topology)
    others: list[Gpu | Nic] = [*(g for g in gpus if g != found), *topology.nics]
    known = {str(other): link(found, other, topology) for other in others}
    return {"nearest_nics": list(map(str, nearest)), "links": {k: v.name if v else None for k, v in known.items()}}


def plugin(
    info: PluginInfo,
    *,
    options: Sequence[Shape] = (),
    launch_modes: Sequence[str] | None = None,
    support: Support | None = None,
) -> Shape:
    """Return one plugin. `can_act` is null if the plugin has no `supports` (a policy), false if it is broken."""
    can_act = None if support is None else support.ok
    shape: Shape = {
        "name": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "target": info.target,
        "can_act": False if info.error else can_act,
        "reason": info.error or ("" if support is None else support.reason),
        "error": info.error or None,
        "options": list(options),
    }
    if launch_modes is not None:
        shape["launch_modes"] = list(launch_modes)
    return shape


def report(bound: BindReport, observed: Observed | None = None) -> Shape:
    """Return the report of a bind, with the state after it, or `observed` if it was read later."""
    now = observed or bound.observed
    caller_mask = now.threads.get(now.caller)
    requested = bound.requested.cpus if bound.requested else None
    return {
        "version": VERSION,
        "launch_mode": bound.launch.mode.value,
        "launcher": bound.launch.launcher or None,
        "gpus": [gpu(g) for g in bound.launch.gpus],
        "strategy": bound.strategy,
        "reason": bound.reason,
        "requested": placement(bound.requested) if bound.requested else None,
        "already": bound.already_bound,
        "satisfied": bound.satisfied,
        "observed": {
            "cpus": cpus(caller_mask),
            "memory": memory(now.policy) if now.policy else None,
            "threads": len(now.threads),
            "threads_within": None if requested is None else sum(mask <= requested for mask in now.threads.values()),
            "masks": masks(now.threads),
            "resident": None if now.resident is None else {str(n): size for n, size in sorted(now.resident.items())},
            "resident_sampled": None if now.resident is None else now.resident.sampled,
            "local_share": now.local_share(bound.requested) if bound.requested else None,
        },
        "moved": bound.moved,
        "move_seconds": bound.outcome.seconds,
        "left": bound.outcome.unmoved,
        "degradations": list(map(degradation, bound.degradations)),
        "seconds_since_start": round(bound.age, 3),
    }


def attachment(made: Attachment) -> Shape:
    """Return the plan of `attach` for a process, its state, and what cannot be set from outside."""
    now = made.before
    return {
        **plan(made.planned),
        "observed": {
            "threads": len(now.threads),
            "masks": masks(now.threads),
            "resident": None if now.resident is None else {str(n): size for n, size in sorted(now.resident.items())},
            "resident_sampled": None if now.resident is None else now.resident.sampled,
        },
        "degradations": list(map(degradation, made.obstacles)),
    }


def degradation(found: Degradation) -> Shape:
    return {"tried": found.action, "errno": found.errno or None, "said": found.error, "remedy": found.remedy or None}


def processes(rows: Iterable[GpuProcess], notes: Sequence[str], policy: str) -> Shape:
    """Return the processes on GPUs, one object for each process and GPU."""
    return {"version": VERSION, "policy": policy, "processes": [process(row) for row in rows], "notes": list(notes)}


def process(row: GpuProcess) -> Shape:
    """Return one process on one GPU."""
    state, bound = row.state, row.bound
    resident = state.resident
    return {
        "pid": row.pid,
        "identity": row.identity or None,
        "user": row.user,
        "command": list(row.command),
        "worker": row.worker or None,
        "seconds_since_start": None if row.age is None else round(row.age, 3),
        "gpu": gpu(row.gpu) if row.gpu else None,
        "pci_bus_id": str(row.use.gpu) if row.use.gpu else None,
        "evidence": row.use.evidence.value,
        "evidence_reason": row.use.reason,
        "cpus": cpus(state.cpus) if state.threads else None,
        "threads": len(state.threads) or None,
        "threads_inside": row.threads_inside,
        "masks": masks(state.threads),
        "policies": {str(policy): count for policy, count in state.policies.items()},
        "resident": None if resident is None else {str(n): size for n, size in sorted(resident.items())},
        "resident_sampled": None if resident is None else resident.sampled,
        "local_share": row.local_share,
        "local_share_error": None if resident is None else share_error(resident.sampled),
        "placement": placement(row.placement) if row.placement else None,
        "bound": None
        if bound is None
        else {
            "strategy": bound.strategy,
            "since": round(bound.since, 3),
            "cpus": cpus(bound.cpus),
            "memory": bound.memory or None,
            "gpus": list(bound.gpus),
        },
        "locality": row.assessment.locality.value,
        "reason": row.assessment.reason,
        "remedy": row.assessment.remedy or None,
    }


def comparison(found: Comparison) -> Shape:
    """Return a comparison: the runs of each way, and their ratio to the unbound runs."""
    ways = []
    for way in found.variants:
        ratio = found.ratio(way.name)
        ways.append(
            {
                "name": way.name,
                "where": way.where,
                "values": found.values(way.name),
                "ratio": {"median": ratio.median, "least": ratio.low, "greatest": ratio.high},
            }
        )
    return {
        "version": VERSION,
        "higher_is_better": found.higher_is_better,
        "runs": ways,
        "other_busy_cpus": found.others,
        "verdict": found.verdict,
    }


def measurement(found: Measurement) -> Shape:
    """Return a measurement: a grid for each quantity, of each place and the memory of each node."""
    from affinity.benchmark.server import QUANTITIES

    grids = []
    for quantity in QUANTITIES:
        rows = []
        for place in found.places:
            values = {str(node): list(found.values(quantity, place, node)) for node in found.nodes}
            if any(values.values()):
                rows.append({"place": place.name, "pci_bus_id": place.gpu, "node": place.node, "values": values})
        if rows:
            grids.append(
                {
                    "quantity": quantity.key,
                    "title": quantity.title,
                    "unit": quantity.unit,
                    "higher_is_better": quantity.higher_is_better,
                    "rows": rows,
                }
            )
    return {
        "version": VERSION,
        "nodes": list(found.nodes),
        "grids": grids,
        "other_busy_cpus": found.others,
        "notes": list(found.notes),
        "verdict": found.verdict,
    }


def masks(threads: Mapping[int, CpuSet]) -> dict[str, int]:
    """Return the number of threads that have each mask."""
    counts: dict[str, int] = {}
    for mask in threads.values():
        counts[str(mask)] = counts.get(str(mask), 0) + 1
    return dict(sorted(counts.items()))


def cpus(found: CpuSet | None) -> str | None:
    return None if found is None else str(found)


def ids(found: NodeSet) -> list[int]:
    return list(found)


def plain(value: object) -> object:
    """Return a setting's value: an enumeration's value, a set in list format, text for a type that JSON lacks."""
    from enum import Enum

    from affinity.topology.cpuset import IdSet

    if isinstance(value, Enum):
        return value.value
    if isinstance(value, IdSet):
        return str(value)
    if isinstance(value, tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
