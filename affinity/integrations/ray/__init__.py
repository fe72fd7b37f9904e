"""Ray: actors and tasks on their GPU's node, and a look at a whole cluster.

    @ray.remote(num_gpus=1)
    @affinity.integrations.ray.bound
    class Scheduler: ...                  `__init__` and every method run where the GPU is

    survey(), audit()                     what each machine of the cluster would do; what each bound actor has now

Works with Ray 2.44 and later. Importing this package does not import ray. Names are loaded when first used, because
the launcher of this package is asked in every process.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from affinity.integrations.ray.actor import bound
    from affinity.integrations.ray.actor_audit import ActorAudit, audit
    from affinity.integrations.ray.cluster import connected
    from affinity.integrations.ray.node_survey import NodeSurvey, survey

_HOME = {
    "bound": "actor",
    "ActorAudit": "actor_audit", "audit": "actor_audit",
    "NodeSurvey": "node_survey", "survey": "node_survey", "connected": "cluster",
}  # fmt: skip

__all__ = ["ActorAudit", "NodeSurvey", "audit", "bound", "connected", "survey"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
