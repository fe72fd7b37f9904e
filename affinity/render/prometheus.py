"""Text for node_exporter's textfile collector, through the library `prometheus_client` (extra `prometheus`)."""

from __future__ import annotations

import os
from collections.abc import Iterable

from affinity.errors import UsageError
from affinity.kernel.pages import share_error
from affinity.report.locality import Locality
from affinity.report.processes import GpuProcess


def processes(rows: Iterable[GpuProcess]) -> str:
    """Return the metrics of processes that use a GPU. Raise UsageError if the library is not installed."""
    try:
        from prometheus_client import CollectorRegistry, Gauge, generate_latest
    except ImportError as missing:
        raise UsageError(
            f"--prometheus needs the library prometheus_client ({missing}): pip install 'numa-affinity[prometheus]'"
        ) from missing
    registry = CollectorRegistry()
    labels = ("pid", "user", "name", "gpu", "node")

    def gauge(name: str, text: str, *more: str) -> Gauge:
        return Gauge(f"affinity_{name}", text, (*labels, *more), registry=registry)

    locality = gauge("process_locality", "1 for where the process is, compared with its GPU.", "locality")
    threads = gauge("process_threads", "Threads of the process.")
    inside = gauge("process_threads_inside", "Threads that may run on the CPUs of the GPU's placement alone.")
    memory = gauge("process_memory_bytes", "Own (anonymous) pages of the process by node.", "memory_node")
    share = gauge("process_memory_local_ratio", "Share of the own pages on the nodes of the GPU's placement.")
    error = gauge("process_memory_error_ratio", "Margin of the share, 0 if every page was counted.")
    count = Gauge("affinity_processes", "Processes on GPUs, by where they are.", ("locality",), registry=registry)
    for kind in Locality:
        count.labels(kind.value).set(0)
    for row in rows:
        state, node = row.state, row.gpu.node if row.gpu else None
        name = row.worker or os.path.basename(row.command[0] if row.command else "")
        own = str(row.pid), row.user or "", name, str(row.gpu or ""), "" if node is None else str(node)
        count.labels(row.assessment.locality.value).inc()
        locality.labels(*own, row.assessment.locality.value).set(1)
        if state.threads:
            threads.labels(*own).set(len(state.threads))
        if row.threads_inside is not None:
            inside.labels(*own).set(row.threads_inside)
        for memory_node, size in (state.resident or {}).items():
            memory.labels(*own, str(memory_node)).set(size)
        if row.local_share is not None and state.resident is not None:
            share.labels(*own).set(row.local_share)
            error.labels(*own).set(share_error(state.resident.sampled))
    return generate_latest(registry).decode()
