"""Ray: actors and tasks on their GPU's node, and a look at a whole cluster.

    @ray.remote(num_gpus=1)
    @affinity.integrations.ray.bound
    class Scheduler: ...                  `__init__` and every method run where the GPU is

    survey(), audit()                     what each machine of the cluster would do; what each bound actor has now

Works with Ray 2.9 and later. Importing this package does not import ray.
"""

from affinity.integrations.ray._audit import ActorAudit, audit
from affinity.integrations.ray._nodes import connected
from affinity.integrations.ray._survey import NodeSurvey, survey
from affinity.integrations.ray._worker import accelerator_ids, bound, record, report

__all__ = ["ActorAudit", "NodeSurvey", "accelerator_ids", "audit", "bound", "connected", "record", "report", "survey"]
