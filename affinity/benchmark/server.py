"""What memory of each node is worth to the CPUs of each node, and to each GPU: measured round by round.

As in `comparison`, what a verdict compares is the ratio within a round.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from affinity.benchmark.comparison import Ratio, tail, timed
from affinity.devices.gpu import Gpu
from affinity.errors import UsageError
from affinity.host import Host
from affinity.topology.cpuset import CpuSet, NodeSet

_MIB = 1 << 20
_SIZE = 256 * _MIB
_LARGEST, _SMALLEST = 2048 * _MIB, 16 * _MIB


@attrs.frozen
class Quantity:
    """What is measured. key: its name in JSON. scale: units in one SI unit (byte per second, second)."""

    key: str
    title: str
    unit: str
    scale: float
    higher_is_better: bool


BANDWIDTH = Quantity("bandwidth", "Copies by a thread on each core", "GB/s", 1e-9, True)
LATENCY = Quantity("latency", "Latency of a load", "ns", 1e9, False)
TO_GPU = Quantity("to_gpu", "Copies from pinned memory to the GPU", "GB/s", 1e-9, True)
FROM_GPU = Quantity("from_gpu", "Copies from the GPU to pinned memory", "GB/s", 1e-9, True)
SMALL_COPY = Quantity("small_copy", "A copy of 4 KiB to the GPU", "us", 1e6, False)
LAUNCH = Quantity("launch", "A launch of an empty kernel, until it is done", "us", 1e6, False)
QUANTITIES = (BANDWIDTH, LATENCY, TO_GPU, FROM_GPU, SMALL_COPY, LAUNCH)


@attrs.frozen
class Place:
    """CPUs of a node, or a GPU. node: its own, None if that of a GPU is unknown."""

    name: str
    node: int | None
    gpu: str | None = None


@attrs.frozen
class Job:
    """What one process measures. cpus: those it runs on, one of each core. size: bytes of what it copies."""

    place: Place
    cpus: CpuSet
    nodes: tuple[int, ...]
    size: int

    def argument(self) -> str:
        """Return it for `worker`."""
        return json.dumps({"cpus": list(self.cpus), "nodes": self.nodes, "size": self.size, "gpu": self.place.gpu})


@attrs.frozen
class Measurement:
    """samples: by quantity, place and node, one number a round, in the quantity's unit. cpu_nodes: nodes with CPUs."""

    places: tuple[Place, ...]
    nodes: tuple[int, ...]
    cpu_nodes: NodeSet
    samples: Mapping[tuple[str, str, int], Sequence[float]]
    others: float
    notes: tuple[str, ...]

    def values(self, quantity: Quantity, place: Place, node: int) -> Sequence[float]:
        """Return the samples, none where it was not measured."""
        return self.samples.get((quantity.key, place.name, node), ())

    def near_to_far(self, quantity: Quantity, place: Place, near: int) -> Ratio | None:
        """Return how much better memory of a node is than that of the other nodes with CPUs (their median)."""
        far = [self.values(quantity, place, n) for n in self.nodes if n != near and n in self.cpu_nodes]
        rounds = [*zip(self.values(quantity, place, near), *filter(None, far), strict=False)]
        if not rounds or len(rounds[0]) < 2:
            return None
        pairs = [(own, statistics.median(others)) for own, *others in rounds]
        return Ratio.of(*zip(*(pair if quantity.higher_is_better else pair[::-1] for pair in pairs), strict=True))

    @property
    def verdict(self) -> str:
        """One line: whether memory of a GPU's own node is better for it; without GPUs, of a CPU's own."""
        gpus = [place for place in self.places if place.gpu is not None]
        quantity = TO_GPU if gpus else BANDWIDTH
        found = ((p, self.near_to_far(quantity, p, p.node)) for p in gpus or self.places if p.node is not None)
        ratios = {place: ratio for place, ratio in found if ratio is not None}
        if not ratios:
            return "nothing was measured that could be compared"
        low, high = min(ratio.low for ratio in ratios.values()), max(ratio.high for ratio in ratios.values())
        ratio = Ratio(statistics.median(ratio.median for ratio in ratios.values()), low, high)
        if not gpus:
            what = f"copies are {ratio} as fast in memory of the node whose CPUs copy"
        elif len(ratios) == 1:
            (gpu,) = ratios
            what = f"copies to {gpu.name} are {ratio} as fast from node {gpu.node}"
        else:
            what = f"copies to {len(ratios)} GPUs are {ratio} as fast from the node of each"
        if low <= 1 <= high:
            return f"{what} as elsewhere: no difference that each round shows"
        return f"{what} as elsewhere: {'bind' if low > 1 else 'do not bind'}"

    def surprises(self) -> Iterator[str]:
        """Yield a remark for each GPU that is faster, in each round, from another node than the system shows."""
        for place in self.places:
            if place.gpu is None:
                continue
            shown = "its node is unknown" if place.node is None else f"node {place.node} is shown as its own"
            for node in self.cpu_nodes - NodeSet([place.node] if place.node is not None else []):
                ratio = self.near_to_far(TO_GPU, place, node)
                if ratio is not None and ratio.low > 1:
                    faster = f"copies from node {node} are {ratio} as fast as from the others"
                    yield f"{place.name}: {shown}, but {faster}: see AFFINITY_NODES"


def jobs(host: Host, gpus: Sequence[Gpu], *, with_cuda: bool, emulated: bool) -> tuple[list[Job], list[str]]:
    """Return what to measure, and notes on what is not.

    with_cuda: whether cuda-bindings is there. emulated: whether the processor is.
    Raise UsageError if there is nothing to compare: memory of one node, or nodes that are not real.
    """
    topology, cpus = host.topology, host.allowed_cpus
    nodes = topology.memory_nodes & host.allowed_nodes
    if len(nodes) < 2:
        raise UsageError(f"nothing to compare: memory of one node is allowed here ({nodes or 'none'})")
    if len(topology.sharing_nodes(nodes.first()) & nodes) > 1:
        raise UsageError("nothing to compare: the nodes share their CPUs, the kernel has divided one (numa=fake)")
    if emulated:
        raise UsageError("nothing to compare: the processor is emulated, and all memory is equally far from it")
    notes = []
    sizes = {node: host.kernel.available_bytes(node) // 8 for node in nodes}
    full = NodeSet(node for node, size in sizes.items() if size < _SMALLEST)
    if full:
        notes.append(f"memory of node {full} is not measured: less than {8 * _SMALLEST // _MIB} MiB of it are free")
        nodes -= full
        if len(nodes) < 2:
            raise UsageError(f"nothing to compare: {notes[0]}")
    cores = CpuSet({topology.cpus[cpu].core: cpu for cpu in sorted(cpus, reverse=True)}.values())
    by_node = {node: topology.cpus_of(NodeSet([node])) & cores for node in topology.nodes_of(cpus)}
    caches = max((_l3_bytes(host, own) for own in by_node.values()), default=0)
    size = min(max(_SIZE, 2 * caches), _LARGEST, *(sizes[node] for node in nodes)) // _MIB * _MIB
    found = [Job(Place(f"CPUs of node {node}", node), own, tuple(nodes), size) for node, own in by_node.items()]
    for gpu in gpus:
        if gpu.pci is None or gpu.vendor != "nvidia":
            notes.append(f"GPU {gpu} is not measured: expected one of NVIDIA, found {gpu.vendor}")
        elif with_cuda:
            place = Place(f"GPU {gpu}", gpu.node, str(gpu.pci))
            for node in nodes:
                near = topology.nearest(node, NodeSet(by_node)) if node not in by_node else NodeSet([node])
                found.append(Job(place, by_node[near.first()], (node,), size))
    if not with_cuda and any(gpu.vendor == "nvidia" for gpu in gpus):
        notes.append("GPUs are not measured: cuda-bindings is missing; pip install 'numa-affinity[bench]'")
    return found, notes


def measure(
    todo: Sequence[Job],
    rounds: int,
    run: Callable[[Job], tuple[Sequence[Mapping[str, float | None]], float]],
    *,
    cpu_nodes: NodeSet,
    notes: Sequence[str],
    progress: Callable[[str], None],
) -> Measurement:
    """Run each job once a round, each round begun by the next of them; one that fails is a note, and not run again."""
    samples: dict[tuple[str, str, int], list[float]] = {}
    others, found, failed = [], list(notes), set()
    for number in range(rounds):
        start = number % len(todo)
        for job in (*todo[start:], *todo[:start]):
            if job.place in failed:
                continue
            progress(f"round {number + 1} of {rounds}, {job.place.name} with memory of node {NodeSet(job.nodes)}")
            try:
                results, busy = run(job)
            except UsageError as failure:
                failed.add(job.place)
                found.append(f"{job.place.name}: not measured: {failure}")
                continue
            others.append(busy)
            for result in results:
                for quantity in QUANTITIES:
                    value = result.get(quantity.key)
                    if value is not None:
                        key = (quantity.key, job.place.name, int(result["node"] or 0))
                        samples.setdefault(key, []).append(value * quantity.scale)
    places = tuple(dict.fromkeys(job.place for job in todo))
    nodes = tuple(sorted({node for job in todo for node in job.nodes}))
    measured = Measurement(places, nodes, cpu_nodes, samples, statistics.fmean(others or [0.0]), ())
    return attrs.evolve(measured, notes=(*found, *measured.surprises()))


def run_job(job: Job) -> tuple[Sequence[Mapping[str, float | None]], float]:
    """Run a job in a process of its own; return its lines, and how many CPUs were busy with something else.

    Raise UsageError with the end of what it printed if it fails.
    """
    command = [sys.executable, "-m", "affinity.benchmark.worker", job.argument()]
    own = {"AFFINITY_AUTO": "0", "AFFINITY_AUTOSTART": None, "OPENBLAS_NUM_THREADS": "1"}
    done, _, others = timed(command, own, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise UsageError(tail(done.stderr).rpartition("\n")[2] or f"its process ended with status {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()], others


def _l3_bytes(host: Host, cpus: CpuSet) -> int:
    return sum(c.size or 0 for c in host.topology.caches if c.level == 3 and not c.cpus.isdisjoint(cpus))
