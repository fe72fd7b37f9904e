"""Ray in a machine as slow as an emulated one, with a GPU for each of the machine's.

The raylet waits 15 seconds for its agents to show their ports, by files, and would stop before they have started:
here the ports are fixed, and their files are written first. The dashboard and the log monitor, each a process of
Python, are left out. All else is Ray's own: its store, raylet, agents and workers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._raylet import persist_port

HOST, STORE_PORT, ENV_AGENT_PORT = "127.0.0.1", 20000, 20001
NODE_ID = "a" * 56
SESSION = Path("/tmp/ray/session_emulated")

#: No port, as an agent without the dashboard's packages states it.
NONE = -1
PORTS = {
    "metrics_agent_port": NONE,
    "metrics_export_port": NONE,
    "dashboard_agent_listen_port": NONE,
    "runtime_env_agent_port": ENV_AGENT_PORT,
}
ENVIRONMENT = {
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": NODE_ID,
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Beyond the time limit of the machine: a worker that is late would be ended and started anew, and be late again.
    "RAY_agent_register_timeout_ms": "3600000",
    "RAY_worker_register_timeout_seconds": "3600",
    "RAY_health_check_period_ms": "60000",
    "RAY_health_check_timeout_ms": "600000",
    "PYTHONPATH": os.path.dirname(__file__),
}


class Head(Node):  # type: ignore[misc]
    """A head node without the dashboard's server, for which the start would wait."""

    def start_api_server(self, **_: Any) -> None:
        self._webui_url = ""


@contextmanager
def running(gpus: int) -> Iterator[None]:
    """Ray on this machine, and this process connected to it."""
    os.environ.update(ENVIRONMENT)
    SESSION.mkdir(parents=True)
    for name, port in PORTS.items():
        persist_port(str(SESSION), NODE_ID, name, port)
    parameters = RayParams(
        num_cpus=gpus,  # so many workers it starts at once
        num_gpus=gpus,
        memory=1 << 30,
        object_store_memory=80 << 20,
        node_ip_address=HOST,
        gcs_server_port=STORE_PORT,
        runtime_env_agent_port=ENV_AGENT_PORT,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        temp_dir=str(SESSION.parent),
        session_name=SESSION.name,
    )
    head = Head(parameters, head=True, shutdown_at_exit=False, spawn_reaper=False)
    try:
        ray.init(address=f"{HOST}:{STORE_PORT}", log_to_driver=False, logging_level="error")
        yield
    finally:
        ray.shutdown()
        head.kill_all_processes(check_alive=False)
