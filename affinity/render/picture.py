"""`Picture`: a machine as nested boxes, made from the shapes of `affinity.render.serialize`.

The same value is drawn in a terminal (`terminal`), as SVG (`svg`) and on a page (`page`). Equal cores, caches and empty
nodes are folded into one box, so that a machine with hundreds of CPUs stays readable.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs

from affinity.render import count_of
from affinity.topology.cpuset import CpuSet, NodeSet

Shape = Mapping[str, Any]

#: Up to this many CPUs of a machine, every core has its own box.
FEW_CPUS = 16


class Kind(enum.Enum):
    """What a box is, which decides its colour."""

    MACHINE = "machine"
    PACKAGE = "package"
    NODE = "node"
    CACHE = "cache"
    CORES = "cores"
    PCI = "pci"
    GPU = "gpu"
    NIC = "nic"
    PROCESS = "process"


class Mark(enum.Enum):
    """What is to be seen at a glance. The value is its text, so that it does not depend on a colour."""

    NONE = ""
    NOT_ALLOWED = "⊘ not allowed here"
    LOCAL = "✓ local"
    MISPLACED = "✗ misplaced"
    UNKNOWN = "? unknown"


def printable(text: str) -> str:
    """Return a text without control characters (a command line is another user's), which XML cannot have either."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _printable_lines(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(printable, lines))


@attrs.frozen
class Box:
    """One part of a machine.

    lines: short facts below the title. reason: why it is as it is, for a tooltip. children: the parts inside.
    """

    kind: Kind
    title: str = attrs.field(converter=printable)
    lines: tuple[str, ...] = attrs.field(default=(), converter=_printable_lines)
    reason: str = attrs.field(default="", converter=printable)
    mark: Mark = Mark.NONE
    children: tuple[Box, ...] = ()

    @property
    def text(self) -> tuple[str, ...]:
        """The lines as drawn: the mark first."""
        return (self.mark.value, *self.lines) if self.mark.value else self.lines

    @property
    def label(self) -> str:
        """The box in one line of words, for a reader that does not see it."""
        return ", ".join((self.title, *self.text))

    def walk(self) -> Iterable[Box]:
        """Yield this box and all boxes inside."""
        yield self
        for child in self.children:
            yield from child.walk()


@attrs.frozen
class Picture:
    """A machine as boxes, with the tables' rows that the boxes were made from.

    machine, plans, processes: the shapes of docs/reference/json.md. notes: facts for the operator.
    """

    box: Box
    machine: Shape
    plans: tuple[Shape, ...] = ()
    processes: tuple[Shape, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The machine in one sentence, with the number of misplaced processes if there are processes."""
        counts = [counted(self.machine)]
        if self.processes:
            wrong = {p["pid"] for p in self.processes if mark_of(p) is Mark.MISPLACED}
            counts.append(f"{len(wrong)} of {count_of(len({p['pid'] for p in self.processes}), 'process')} misplaced")
        return ", ".join(counts)


def picture(
    machine: Shape,
    plans: Sequence[Shape] = (),
    processes: Sequence[Shape] = (),
    *,
    title: str = "",
    notes: Iterable[str] = (),
) -> Picture:
    """Return the picture of a machine.

    machine: of `serialize.machine`. plans: of `serialize.plan`, one for each GPU. processes: of `serialize.process`.
    title: the machine's name; default: where it comes from. notes: further ones than the machine's.
    """
    maker = _Maker(machine, plans, processes)
    box = Box(Kind.MACHINE, title or _origin(machine), maker.facts(), children=maker.packages())
    return Picture(box, machine, tuple(plans), tuple(processes), tuple(dict.fromkeys((*machine["notes"], *notes))))


def counted(machine: Shape) -> str:
    """Return the numbers of a machine's parts."""
    cores = sum(package["cores"] for package in machine["packages"])
    parts = ((len(machine["packages"]), "package"), (len(machine["nodes"]), "NUMA node"), (cores, "core"))
    devices = ((len(machine["gpus"]), "GPU"), (len(machine["nics"]), "NIC"))
    return ", ".join(count_of(number, noun) for number, noun in (*parts, *devices))


def mark_of(process: Shape) -> Mark:
    """Return the mark of a process."""
    locality = process["locality"]
    return {"local": Mark.LOCAL, "unknown": Mark.UNKNOWN}.get(locality, Mark.MISPLACED)


def size(count: int | None) -> str:
    """Return a size as lstopo has it; "?" if it is unknown."""
    if count is None:
        return "?"
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}" if count < 1000 * unit else f"{count / unit:.0f} {name}"
    return f"{count >> 10} KiB"


def ordinals(references: Iterable[str]) -> str:
    """Return GPU references with runs shortened: `0-3`, `phys:0-phys:3` as `phys:0-3`."""
    plain: dict[str, list[int]] = {}
    rest = []
    for reference in references:
        prefix, colon, number = reference.rpartition(":")
        if number.isdecimal() and prefix in ("", "phys"):
            plain.setdefault(prefix + colon, []).append(int(number))
        else:
            rest.append(reference)
    return ", ".join([*(prefix + str(NodeSet(numbers)) for prefix, numbers in plain.items()), *rest])


@attrs.frozen
class _Maker:
    machine: Shape
    plans: Sequence[Shape]
    processes: Sequence[Shape]

    def facts(self) -> tuple[str, ...]:
        allowed, online = self.machine["allowed_cpus"], self.machine["online_cpus"]
        lines = [f"CPUs {online}" if allowed == online else f"CPUs {online}, allowed here {allowed or 'none'}"]
        empty = NodeSet(n["id"] for n in self.machine["nodes"] if self._is_empty(n))
        if empty:
            lines.append(f"{count_of(len(empty), 'node')} without CPUs, memory and devices: {empty}")
        shared = NodeSet(n["id"] for n in self.machine["nodes"] if n["memory_allowed"])
        have = NodeSet(n["id"] for n in self.machine["nodes"] if n["memory"])
        if have - shared:
            lines.append(f"memory of node {have - shared} is not allowed here")
        if self.plans:
            lines.append(f"plan of policy {self.plans[0]['policy']}, one worker for each GPU")
        return tuple(lines)

    def packages(self) -> tuple[Box, ...]:
        """Return the packages with their nodes; nodes of no package, and devices of no node, are at the end."""
        names = {p["id"]: p for p in self.machine["packages"]}
        groups: dict[tuple[int, ...], list[Shape]] = {}
        for node in self.machine["nodes"]:
            if not self._is_empty(node):
                groups.setdefault(self._packages_of(node), []).append(node)
        boxes: list[Box] = []
        for key, nodes in sorted(groups.items(), key=lambda item: (not item[0], item[0])):
            inside = tuple(map(self._node, nodes))
            if not key:
                boxes += inside
                continue
            title = ("Package " if len(key) == 1 else "Packages ") + ", ".join(map(str, key))
            cores = sum(names[p]["cores"] for p in key)
            boxes.append(Box(Kind.PACKAGE, title, (count_of(cores, "core"),), children=inside))
        return (*boxes, *self._devices(None))

    def _packages_of(self, node: Shape) -> tuple[int, ...]:
        """Return the packages of a node; of one without CPUs, those of the one nearest node that has CPUs."""
        found = tuple(p["id"] for p in self.machine["packages"] if node["id"] in p["nodes"])
        if found:
            return found
        near = sorted((node["distances"].get(str(o["id"]), 255), o["id"]) for o in self.machine["nodes"] if o["cpus"])
        if not near or (len(near) > 1 and near[0][0] == near[1][0]):
            return ()
        return tuple(p["id"] for p in self.machine["packages"] if near[0][1] in p["nodes"])

    def _is_empty(self, node: Shape) -> bool:
        there = {d["node"] for d in (*self.machine["gpus"], *self.machine["nics"])}
        return not node["cpus"] and not node["memory"] and node["id"] not in there

    def _node(self, node: Shape) -> Box:
        """Return a node: memory and distances; inside its cores, devices and processes."""
        lines = []
        if node["memory"]:
            free = node["memory_free"]
            lines.append(size(node["memory"]) + (f", {size(free)} free" if free not in (None, node["memory"]) else ""))
        else:
            lines.append("no memory")
        lines.append(f"CPUs {node['cpus']}" if node["cpus"] else "no CPUs")
        near: dict[int, list[int]] = {}
        shown = {n["id"] for n in self.machine["nodes"] if not self._is_empty(n)}
        for other, distance in node["distances"].items():
            if int(other) != node["id"] and int(other) in shown:
                near.setdefault(distance, []).append(int(other))
        if near:
            lines.append("distance " + ", ".join(f"{d} to node {NodeSet(ids)}" for d, ids in sorted(near.items())))
        children = (*self._caches(node), *self._devices(node["id"]), *self._workers(node))
        barred = bool(node["memory"]) and not node["memory_allowed"]
        reason = f"memory policies of this process may not name node {node['id']}" if barred else ""
        mark = Mark.NOT_ALLOWED if barred else Mark.NONE
        return Box(Kind.NODE, f"NUMA node {node['id']}", tuple(lines), reason, mark, children)

    # -- cores

    def _caches(self, node: Shape) -> tuple[Box, ...]:
        """Return the L3 caches of a node with the cores inside; those that are alike are one box."""
        mine = CpuSet.parse(node["cpus"])
        cores = [CpuSet.parse(core) for core in node["cores"]]
        alike: dict[tuple[str, tuple[Box, ...]], list[CpuSet]] = {}
        left = mine
        for level in self.machine["caches"]:
            for cpus in map(CpuSet.parse, level["cpus"]) if level["level"] == 3 else ():
                part = cpus & left
                if part:
                    inside = self._cores([core for core in cores if core <= part])
                    alike.setdefault((cache_name(level) + self._sharing(cpus, node), inside), []).append(part)
                    left = left - part
        # Boxes of equal L3 domains differ in their CPU numbers, which are left out if there are several.
        folded: dict[tuple[str, tuple[Box, ...]], list[CpuSet]] = {}
        several = len(alike) > 2
        for (title, inside), parts in alike.items():
            bare = tuple(attrs.evolve(box, lines=box.lines[1:]) for box in inside) if several else inside
            folded.setdefault((title, bare), []).extend(parts)
        boxes = []
        for (title, inside), parts in folded.items():
            if len(parts) == 1:
                boxes.append(Box(Kind.CACHE, title, children=inside))
            else:
                together = CpuSet(cpu for part in parts for cpu in part)
                lines = (f"CPUs {together}", "in each:")
                boxes.append(Box(Kind.CACHE, f"{len(parts)} x {title}", lines, children=inside))
        return (*boxes, *self._cores([core for core in cores if core <= left]))

    def _sharing(self, cpus: CpuSet, node: Shape) -> str:
        """Return which other nodes have CPUs of a cache, in words."""
        if cpus <= CpuSet.parse(node["cpus"]):
            return ""
        others = (n["id"] for n in self.machine["nodes"] if not cpus.isdisjoint(CpuSet.parse(n["cpus"])))
        return f", shared with node {NodeSet(others) - NodeSet([node['id']])}"

    def _cores(self, cores: Sequence[CpuSet]) -> tuple[Box, ...]:
        """Return the boxes of cores: one for all that are alike, one for each on a small machine."""
        allowed = CpuSet.parse(self.machine["allowed_cpus"])
        few = len(CpuSet.parse(self.machine["online_cpus"])) <= FEW_CPUS
        alike: dict[tuple[Any, ...], list[CpuSet]] = {}
        for core in cores:
            key = (len(core), self._caches_by_cpu.get(core.first(), ""), len(core & allowed), self._planned_for(core))
            alike.setdefault((*key, core.first() if few else 0), []).append(core)
        return tuple(self._core_box(key, found, few) for key, found in alike.items())

    def _core_box(self, key: tuple[Any, ...], cores: Sequence[CpuSet], few: bool) -> Box:
        width, caches, usable, gpus, first = key
        cpus = CpuSet(cpu for core in cores for cpu in core)
        each = " each" if len(cores) > 1 else ""
        title = (
            f"core {self._core_numbers[first]}"
            if few
            else count_of(len(cores), "core") + (f" x {width} PU" if width > 1 else "")
        )
        lines = [f"PU {cpus}" if few else f"CPUs {cpus}"]
        lines += [caches + each] if caches else []
        lines += [f"plan: GPU {ordinals(gpus)}"] if gpus else []
        mark = Mark.NONE
        if not usable:
            mark = Mark.NOT_ALLOWED
        elif usable < width:
            lines.append(f"{usable} PU allowed{each}")
        reason = f"CPUs {cpus} are not in the mask or the cpuset of this process" if mark is not Mark.NONE else ""
        return Box(Kind.CORES, title, tuple(lines), reason, mark)

    @cached_property
    def _core_numbers(self) -> Mapping[int, int]:
        """The logical number of each core, as lstopo's L#, by its lowest CPU."""
        cores = (CpuSet.parse(core).first() for node in self.machine["nodes"] for core in node["cores"])
        return {cpu: number for number, cpu in enumerate(sorted(set(cores)))}

    @cached_property
    def _caches_by_cpu(self) -> Mapping[int, str]:
        """The caches below L3 that each CPU has, the largest first."""
        found: dict[int, list[str]] = {}
        for level in sorted(self.machine["caches"], key=lambda level: -level["level"]):
            for cpus in level["cpus"] if level["level"] < 3 else ():
                for cpu in CpuSet.parse(cpus):
                    found.setdefault(cpu, []).append(cache_name(level))
        return {cpu: ", ".join(names) for cpu, names in found.items()}

    def _planned_for(self, core: CpuSet) -> tuple[str, ...]:
        """Return the references of the GPUs whose worker would run on a core."""
        return tuple(
            plan["references"][0]
            for plan in self.plans
            if plan["strategy"] != "noop" and plan["cpus"] and not core.isdisjoint(CpuSet.parse(plan["cpus"]))
        )

    # -- devices

    def _devices(self, node: int | None) -> tuple[Box, ...]:
        """Return the GPUs and adapters of a node; what is below one PCI switch is together."""
        gpus = [g for g in self.machine["gpus"] if g["node"] == node]
        nics = {n["name"]: n for n in self.machine["nics"] if n["node"] == node}
        switches: dict[tuple[str, ...], list[Shape]] = {}
        for gpu in gpus:
            near = tuple(n for n in gpu["nearest_nics"] if n in nics and gpu["links"][n] in ("PIX", "PXB"))
            switches.setdefault(near or (f"GPU {gpu['reference']}",), []).append(gpu)
        boxes: list[Box] = []
        for near, below in switches.items():
            inside = tuple(map(self._gpu, below))
            adapters = tuple(self._nic(nics.pop(name)) for name in near if name in nics)
            boxes += [Box(Kind.PCI, "PCI switch", children=(*inside, *adapters))] if adapters else inside
        return (*boxes, *map(self._nic, nics.values()))

    def _gpu(self, gpu: Shape) -> Box:
        lines = [gpu["model"], gpu["pci_bus_id"] or "placeholder", "node unknown" if gpu["node"] is None else ""]
        reasons = [f"node {gpu['node']}: {gpu['node_reason']}" if gpu["node"] is not None else gpu["node_reason"]]
        for plan in self.plans:
            if gpu["reference"] not in plan["references"]:
                continue
            if plan["problem"] or plan["strategy"] == "noop":
                lines.append("plan: noop")
                reasons.append(plan["problem"] or plan["reason"])
            else:
                lines += [f"plan: CPUs {plan['cpus']}", f"memory {memory(plan['memory'])}, by {plan['strategy']}"]
                reasons += [plan["placement_reason"], plan["reason"]]
        visible = Mark.NONE if gpu["visible"] else Mark.NOT_ALLOWED
        text = tuple(line for line in lines if line)
        return Box(Kind.GPU, f"GPU {gpu['reference']}", text, "; ".join(filter(None, reasons)), visible)

    def _nic(self, nic: Shape) -> Box:
        nearest = [g["reference"] for g in self.machine["gpus"] if nic["name"] in g["nearest_nics"]]
        lines = [nic["pci_bus_id"]] if nic["name"] != nic["pci_bus_id"] else []
        others = [n for n in (*nic["rdma_devices"], *nic["interfaces"]) if n != nic["name"]]
        lines += [", ".join(others)] if others else []
        reason = f"nearest adapter of GPU {ordinals(nearest)}" if nearest else "nearest to no GPU"
        return Box(Kind.NIC, f"NIC {nic['name']}", tuple(lines), reason)

    # -- processes

    def _workers(self, node: Shape) -> tuple[Box, ...]:
        """Return each process that has its GPU, threads or pages on a node: a misplaced one is in several nodes."""
        mine = CpuSet.parse(node["cpus"])
        boxes = []
        for pid in dict.fromkeys(p["pid"] for p in self.processes):
            rows = [p for p in self.processes if p["pid"] == pid]
            row = rows[0]
            gpus = [r["gpu"] for r in rows if r["gpu"]]
            home = any(gpu["node"] == node["id"] for gpu in gpus)
            threads = sum(count for mask, count in row["masks"].items() if not mine.isdisjoint(CpuSet.parse(mask)))
            resident = row["resident"] or {}
            pages, total = resident.get(str(node["id"]), 0), sum(resident.values())
            if not (home or threads or pages):
                continue
            mark = mark_of(row)
            lines = []
            if gpus:
                uses = "belongs here, with" if home and mark is Mark.MISPLACED else "uses"
                where = "" if home else f" on node {NodeSet(g['node'] for g in gpus if g['node'] is not None)}"
                lines.append(f"{uses} GPU {ordinals(map(self._reference, gpus))}{where}")
            lines.append(f"{threads or 'none'} of {row['threads'] or 0} threads may run here")
            if total:
                lines.append(f"{size(pages)} ({pages / total:.0%}) of its memory here" if pages else "no memory here")
            reason = f"{row['locality']}: {row['reason']}" + (f"; {row['remedy']}" if row["remedy"] else "")
            name = row["worker"] or " ".join(row["command"])
            boxes.append(Box(Kind.PROCESS, f"PID {pid} {shortened(name, 24)}".rstrip(), tuple(lines), reason, mark))
        return tuple(boxes)

    def _reference(self, gpu: Shape) -> str:
        same = (g["reference"] for g in self.machine["gpus"] if g["pci_bus_id"] == gpu["pci_bus_id"])
        return str(next(same, gpu["name"]))


def memory(policy: Shape) -> str:
    """Return a memory policy as text: `preferred:0`."""
    return f"{policy['mode']}:{NodeSet(policy['nodes'])}" if policy["nodes"] else str(policy["mode"])


def shortened(text: str, width: int) -> str:
    """Return a text of one line with at most this many characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def cache_name(cache: Shape) -> str:
    """Return a cache's name and size as lstopo has them: `L1d 48 KiB`."""
    letter = {"data": "d", "instruction": "i"}.get(cache["type"], "")
    return f"L{cache['level']}{letter}" + (f" {size(cache['size'])}" if cache["size"] is not None else "")


def _origin(machine: Shape) -> str:
    return "this machine" if machine["origin"] == "live" else f"{machine['origin']} {machine['detail']}".strip("/ ")
