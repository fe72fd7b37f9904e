"""The living actors to which Ray assigned GPUs, as the cluster's control service (GCS) lists them.

`ray.util.state.list_actors` shows neither the GPUs of an actor nor more than 10,000 actors, and needs the dashboard of
`ray[default]`. The table that it reads has both, in each Ray.
Source: `ActorTableData.resource_mapping` in src/ray/protobuf/gcs.proto; in the actor,
get_accelerator_ids_for_accelerator_resource() of ray/_private/worker.py reads the same mapping. Ray 2.44 and 2.60.
"""

from __future__ import annotations

import re

import attrs

#: Names of the resource, in a placement group too; that of one bundle of the group would repeat its GPUs.
_GPU = re.compile(r"GPU(_group_[0-9A-Za-z]+)?")


@attrs.frozen
class GpuActor:
    """A living actor with GPUs.

    actor: Ray's id. name: its own, else its class's. node, pid: where it runs. gpus: positions among its node's GPUs.
    """

    actor: str
    name: str
    node: str
    pid: int
    gpus: tuple[int, ...]


def gpu_actors() -> list[GpuActor]:
    """Return the living actors with GPUs, of every job. Raises an error of any type if Ray does not list them."""
    from ray import _raylet
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import ActorTableData

    if state.gcs_options is None:
        raise RuntimeError("a connection through Ray Client (ray://) does not show them: connect to the cluster itself")
    table = _raylet.GlobalStateAccessor(state.gcs_options)
    if not table.connect():
        raise RuntimeError("no connection to the cluster's control service")
    found = []
    for entry in table.get_actor_table(None, "ALIVE"):
        actor = ActorTableData.FromString(entry)
        gpus = {
            part.index for owned in actor.resource_mapping if _GPU.fullmatch(owned.name) for part in owned.resource_ids
        }
        if gpus:
            name = actor.name or actor.class_name
            found.append(GpuActor(actor.actor_id.hex(), name, actor.node_id.hex(), actor.pid, tuple(sorted(gpus))))
    return found
