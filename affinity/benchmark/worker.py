"""The process that measures: `python -m affinity.benchmark.worker JOB`, the fields of a `server.Job` as JSON.

A process of its own is on the CPUs in question from its start, and its pages are of the node of its policy. It
prints a line of JSON for each node: the numbers by the key of their `server.Quantity`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from affinity.kernel import MemoryMode, MemoryPolicy
from affinity.kernel.linux import LinuxKernel
from affinity.topology.cpuset import CpuSet, NodeSet


def main(text: str) -> None:
    """Measure for each node of the job, and print."""
    job = json.loads(text)
    kernel = LinuxKernel()
    kernel.set_affinity(0, CpuSet(job["cpus"]))
    for node in job["nodes"]:
        # Also while it is measured: else automatic NUMA balancing might move the pages to the CPUs.
        kernel.set_mempolicy(MemoryPolicy(MemoryMode.BIND, NodeSet([node])))
        print(json.dumps({"node": node, **_numbers(job)}), flush=True)


def _numbers(job: dict[str, Any]) -> dict[str, float | None]:
    if job["gpu"]:
        from affinity.benchmark import gpu

        return gpu.measure(job["gpu"], job["size"])._asdict()
    from affinity.kernel.memory_speed import copy_bandwidth, load_latency

    return {"bandwidth": copy_bandwidth(job["size"], job["cpus"]), "latency": load_latency(job["size"])}


if __name__ == "__main__":
    main(sys.argv[1])
