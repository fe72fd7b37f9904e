"""Pages of a whole cluster: what is alike is folded together, what differs comes first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from xml.etree import ElementTree as ET

from affinity.integrations.ray.actor_audit import ActorAudit
from affinity.integrations.ray.node_survey import NodeSurvey
from affinity.render import count_of, page, svg
from affinity.render.picture import cache_name, counted, memory, ordinals, picture
from affinity.topology.cpuset import NodeSet

#: Pictures of kinds of nodes that differ from most; a page stays small even if every node is of its own kind.
_PICTURES = 20


#: Of actors, in the order of the page: misplaced or not read, nothing known, well.
_MARKS = _WRONG, _UNKNOWN, _WELL = "✗", "?", "✓"


def survey(nodes: Sequence[NodeSurvey]) -> str:
    """Return the page of a survey."""
    groups: dict[tuple[tuple[str, str], ...], list[NodeSurvey]] = {}
    silent: dict[str, list[str]] = {}
    for node in nodes:
        if node.machine is None:
            silent.setdefault(node.error, []).append(node.host)
        else:
            groups.setdefault(tuple(_facts(node).items()), []).append(node)
    ordered = sorted(groups.items(), key=lambda item: len(item[1]))
    usual = dict(ordered[-1][0]) if ordered else {}
    words = [count_of(len(nodes), "node"), f"{count_of(len(groups), 'kind')} of machine and plan"]
    words += [f"{sum(map(len, silent.values()))} without a reply"] if silent else []
    main = page.main_element("Cluster survey", ", ".join(words))
    if silent:
        rows = [page.Wrong((len(names), hosts(names), error)) for error, names in silent.items()]
        page.add_table(main, "✗ Nodes without a reply", ("nodes", "hosts", "error"), rows)
    for number, (facts, alike) in enumerate(ordered, 1):
        has_picture = number <= _PICTURES or number == len(ordered)
        _alike(main, dict(facts), usual, alike, has_picture)
    return page.document(main, "Cluster survey")


def audit(actors: Sequence[ActorAudit], remarks: Callable[[ActorAudit], Sequence[str]]) -> str:
    """Return the page of an audit. remarks: what is to be done about an actor, in words."""
    groups: dict[tuple[str, str, str, str], list[ActorAudit]] = {}
    for actor in actors:
        key = _mark(actor), _state(actor), re.sub(r"\d+", "*", actor.name or "actor"), _placed(actor)
        groups.setdefault(key, []).append(actor)
    marks = [_mark(actor) for actor in actors]
    nodes = len({actor.host for actor in actors})
    words = (
        f"{count_of(len(actors), 'actor')} on {count_of(nodes, 'node')}, {marks.count(_WRONG)} misplaced or not read"
    )
    words += f", {marks.count(_UNKNOWN)} unknown" if _UNKNOWN in marks else ""
    main = page.main_element("Cluster audit", words)
    for (mark, state, name, cpus), alike in sorted(groups.items(), key=lambda i: (_MARKS.index(i[0][0]), len(i[1]))):
        well = mark == _WELL
        title = f"{mark} {count_of(len(alike), 'actor')} {name}: {state}"
        section = page.section(main, title)
        if cpus:
            page.add_text(section, "p", f"placed on CPUs {cpus}")
        inside = section
        if well:
            page.add_text(section, "p", f"on {hosts(actor.host for actor in alike)}")
            inside = ET.SubElement(section, "details")
            page.add_text(inside, "summary", "each actor")
        columns = ("actor", "host", "PID", "GPUs", "threads", "outside", "local pages", "remarks")
        rows = [_actor(actor, remarks(actor)) for actor in alike]
        page.add_table(inside, title, columns, map(page.Wrong, rows) if mark == _WRONG else rows)
    return page.document(main, "Cluster audit")


def hosts(names: Iterable[str]) -> str:
    """Return host names with runs of numbers folded, as Slurm writes them: `node[001-998],login1`."""
    numbered: dict[tuple[str, int, str], set[int]] = {}
    rest = set()
    for name in names:
        parts = re.fullmatch(r"(.*?)(\d+)(\D*)", name)
        if parts is None:
            rest.add(name)
        else:
            numbered.setdefault((parts[1], len(parts[2]), parts[3]), set()).add(int(parts[2]))
    found = []
    for (before, width, after), numbers in sorted(numbered.items()):
        runs: list[list[int]] = []
        for number in sorted(numbers):
            if runs and number == runs[-1][1] + 1:
                runs[-1][1] = number
            else:
                runs.append([number, number])
        texts = ["-".join(f"{n:0{width}}" for n in dict.fromkeys(run)) for run in runs]
        found.append(before + (f"[{','.join(texts)}]" if len(numbers) > 1 else texts[0]) + after)
    return ", ".join([*found, *sorted(rest)])


def _actor(actor: ActorAudit, remarks: Sequence[str]) -> page.Row:
    local = actor.local_share
    return (
        actor.name or actor.actor,
        actor.host,
        actor.pid or None,
        ", ".join(gpu["name"] for gpu in actor.gpus),
        None if actor.error else actor.threads,
        None if actor.error else actor.threads_outside,
        None if local is None else f"{local:.0%}",
        "; ".join(filter(None, (actor.error, *remarks))),
    )


def _mark(actor: ActorAudit) -> str:
    if not actor.is_well:
        return _WRONG
    locality = (actor.process or {}).get("locality", "unknown")
    return _UNKNOWN if locality == "unknown" and not actor.in_force else _WELL


def _state(actor: ActorAudit) -> str:
    """Return the state of an actor, which those that are alike share."""
    if actor.error:
        return "could not be read"
    locality = (actor.process or {}).get("locality")
    holds = {True: "its own binding is in force", False: "its own binding is no longer in force", None: ""}
    return ", ".join(filter(None, (locality, holds[actor.in_force]))) or "not read"


def _placed(actor: ActorAudit) -> str:
    report, process = actor.report, actor.process or {}
    placed = (report["requested"] if report is not None else process.get("placement")) or {}
    return str(placed.get("cpus") or "")


def _facts(node: NodeSurvey) -> dict[str, str]:
    """Return what makes a node differ from another. Free memory, names, UUIDs and notes do not."""
    shape = node.machine
    assert shape is not None
    facts = {
        "packages": str(len(shape["packages"])),
        "cores": str(sum(p["cores"] for p in shape["packages"])),
        "CPUs online": shape["online_cpus"],
        "CPUs allowed": shape["allowed_cpus"],
        "memory allowed on nodes": ", ".join(map(str, shape["allowed_nodes"])),
    }
    empty = NodeSet(n["id"] for n in shape["nodes"] if not n["cpus"] and not n["memory"])
    facts |= {"nodes without CPUs and memory": str(empty)} if empty else {}
    for n in shape["nodes"]:
        if n["id"] in empty:
            continue
        gib = float(f"{(n['memory'] or 0) / (1 << 30):.2g}")  # the kernel's own share differs from boot to boot
        facts[f"node {n['id']}"] = f"CPUs {n['cpus'] or 'none'}, about {gib:g} GiB"
    for level in shape["caches"]:
        facts[cache_name(level)] = f"{len(level['cpus'])} of them"
    for gpu in shape["gpus"]:
        near = ", ".join(gpu["nearest_nics"])
        model = gpu["model"] or gpu["vendor"]
        where = f"{gpu['pci_bus_id']} on node {gpu['node']}"
        facts[f"GPU {gpu['reference']}"] = f"{model} {where}, nearest NIC {near or '-'}"
    for nic in shape["nics"]:
        facts[f"NIC {nic['pci_bus_id']}"] = f"{nic['name']} on node {nic['node']}"
    for p in node.plans:
        place = f"CPUs {p['cpus']}, memory {memory(p['memory'])}, by {p['strategy']}"
        left = p["problem"] or (p["reason"] if p["strategy"] == "noop" else "")
        facts[f"plan of GPU {ordinals(p['references'])}"] = f"policy {p['policy']}: " + (left or place)
    return facts


def _alike(
    main: ET.Element, facts: dict[str, str], usual: dict[str, str], alike: Sequence[NodeSurvey], has_picture: bool
) -> None:
    """Add the section of nodes that are alike: what differs from most others, then the picture of one."""
    is_usual, first = facts == usual, alike[0]
    assert first.machine is not None
    section = page.section(main, f"{'' if is_usual else '≠ '}{count_of(len(alike), 'node')}: {counted(first.machine)}")
    page.add_text(section, "p", hosts(node.host for node in alike))
    keys = [key for key in {**usual, **facts} if facts.get(key) != usual.get(key)]
    if keys:
        rows = [page.Wrong((key, facts.get(key), usual.get(key))) for key in keys]
        page.add_table(section, "Differs from most nodes", ("fact", "here", "most nodes"), rows)
    if has_picture:
        found = picture(first.machine, first.plans, title=first.host)
        details = ET.SubElement(section, "details", {"open": "open"} if is_usual else {})
        page.add_text(details, "summary", f"the machine and its plan, as on {first.host}")
        page.scrolling(details, f"picture of {first.host}").append(svg.element(found))
        if first.plans:
            page.add_plans(details, first.plans)
    notes: dict[str, list[str]] = {}
    for node in alike:
        for note in node.machine["notes"] if node.machine else ():
            notes.setdefault(note, []).append(node.host)
    page.add_list(section, "Notes", [f"{hosts(names)}: {note}" for note, names in notes.items()])
