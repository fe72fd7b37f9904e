"""`survey`: every machine of a running cluster, and where it would put the workers of its GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from affinity.integrations.ray import cluster


@attrs.frozen
class NodeSurvey:
    """One machine of the cluster.

    node: Ray's id. host: its name. machine: what it is, plans: one for each of its GPUs, both in the shapes of
    docs/reference/json.md; None and empty if `error` is why it did not answer.
    """

    node: str
    host: str
    machine: dict[str, Any] | None
    plans: tuple[dict[str, Any], ...] = ()
    error: str = ""


def survey(*, timeout: float = 60) -> Iterator[NodeSurvey]:
    """Ask every alive node of the cluster this process is connected to; each answer as it arrives.

    One task a node, which needs no free CPU. timeout: seconds for all of them, after which the silent ones are
    reported. The nodes' own AFFINITY_* settings, and those of this job's runtime environment, are what is planned
    with. Raises UsageError where there is no connection.
    """
    hosts = cluster.alive()
    for answer in cluster.run_on_nodes(dict.fromkeys(hosts, (_look, None)), hosts, timeout):
        machine, plans = answer.value or (None, ())
        yield NodeSurvey(answer.node, answer.host, machine, plans, answer.error)


def _look(_: None) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """Runs on the node."""
    from affinity.api import make_plan
    from affinity.observe import observe
    from affinity.plugins import Plugins
    from affinity.render import serialize

    plugins = Plugins()
    observation = observe(plugins, gpu="all", launch_mode="ray")
    launch, settings = (
        observation.launch,
        attrs.evolve(observation.settings, required=False),
    )  # an impossible plan is listed, not raised
    machine = serialize.machine(observation.host, launch)
    each = (
        attrs.evolve(observation, settings=settings, launch=attrs.evolve(launch, gpus=(gpu,)))
        for gpu in launch.machine_gpus
    )
    return machine, tuple(serialize.plan(make_plan(worker, plugins)) for worker in each)
