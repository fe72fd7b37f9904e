"""A driver program of Ray, for a process that has the fake NVIDIA driver: prints what each actor found, as JSON.

Arguments: a named machine, and CUDA_VISIBLE_DEVICES of each node of the cluster, `-` for none. Each actor has one
GPU, which the driver shows of, and binds itself on a simulation of the machine.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from workers import gpus

import affinity
from affinity.integrations.ray import audit
from affinity.testing import FakeHost, machines


@ray.remote(num_gpus=1, num_cpus=0)
class Worker:
    def __init__(self, machine: str) -> None:
        (gpu,) = affinity.plan().launch.gpus  # by Ray's id, of those that the driver lists
        fake = FakeHost(machine, threads=20, environ=os.environ)
        self.report = affinity.bind(gpu=str(gpu), host=fake.host)

    def seen(self) -> dict[str, Any]:
        (gpu,) = self.report.launch.gpus
        assert self.report.requested is not None
        return {
            "gpu": str(gpu),
            "node": gpu.node,
            "cpus": str(self.report.requested.cpus),
            "unbound": self.report.unbound_threads,
            "satisfied": self.report.satisfied,
            "ids": gpus(),
            "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "pid": os.getpid(),
        }


def main(machine: str, *visible: str) -> None:
    cluster = Cluster()
    nodes = []
    for order in visible:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if order != "-":
            os.environ["CUDA_VISIBLE_DEVICES"] = order
        count = len(order.split(",")) if order != "-" else len(machines.get(machine).gpus)
        nodes.append((count, cluster.add_node(num_cpus=1, num_gpus=count, include_dashboard=False)))
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    found = []
    for count, node in nodes:
        here = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        made = [Worker.options(scheduling_strategy=here).remote(machine) for _ in range(count)]
        seen = ray.get([actor.seen.remote() for actor in made], timeout=60)
        audited = {row.pid: row.process for row in audit(timeout=60)}
        found.append([{**one, "audited": audited[one["pid"]]["pci_bus_id"]} for one in seen])
        for actor in made:
            ray.kill(actor)
    print(json.dumps(found))
    ray.shutdown()
    cluster.shutdown()


main(*sys.argv[1:])
