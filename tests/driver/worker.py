"""A child process that keeps the driver loaded and answers: one JSON object a line in, one a line out.

Request: machine (a named one), reported (text of FAKE_NVML), providers, nodes (AFFINITY_NODES), environ (what CUDA is
reported), references. Answer: devices, machine, and one list of GPUs a reference, each GPU as
pci, uuid, node, why, …; an error as {"error": type, "message": text}; notes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from affinity import Host, Settings
from affinity.devices import Gpu
from affinity.devices.inventory import Inventory
from affinity.devices.references import resolve
from affinity.errors import AffinityError
from affinity.host import NoKernel
from affinity.plugins import Plugins
from affinity.testing import machines

PLUGINS = Plugins()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    with open(os.environ["FAKE_NVML"], "w", encoding="ascii") as reported:
        reported.write(request["reported"])
    topology = machines.load(request["machine"])
    host = Host(topology, NoKernel(), topology.online, topology.memory_nodes)  # type: ignore[arg-type]
    nodes = request.get("nodes")
    settings = Settings(devices=tuple(request["providers"]), nodes=tuple(nodes) if nodes else None)
    found = Inventory(host, settings, request.get("environ", {}), PLUGINS.devices)
    asked = [_tried(lambda r=r: resolve(r, found)) for r in request.get("references", ())]
    out: dict[str, Any] = {"references": asked}
    if not request.get("only_references"):
        out |= {"devices": _tried(lambda: found.devices), "machine": _tried(lambda: found.machine)}
    return {**out, "notes": found.notes}


def _tried(act: Callable[[], Sequence[Gpu]]) -> Any:
    try:
        return [_shape(gpu) for gpu in act()]
    except AffinityError as wrong:
        return {"error": type(wrong).__name__, "message": str(wrong)}


def _shape(gpu: Gpu) -> dict[str, Any]:
    keys = ("uuid", "model", "vendor", "device_id", "mig_uuids", "error", "node", "node_reason")
    return {"name": str(gpu), **{key: getattr(gpu, key) for key in keys}}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
