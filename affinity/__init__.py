"""Put a GPU worker on the CPUs and the memory next to its GPU, before it allocates anything.

    report = affinity.bind()              in the worker, before it builds its scheduler
    with affinity.spawning(gpu=3): ...    in the parent, around Process.start()
    affinity.plan(gpu=3)                  what would be done, and why
    with affinity.restored(): ...         and back again

Names are loaded when first used: `import affinity` alone costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from affinity.api import Plan as Plan
    from affinity.api import bind as bind
    from affinity.api import plan as plan
    from affinity.api import plan_each as plan_each
    from affinity.api import spawning as spawning
    from affinity.degradation import Degradation as Degradation
    from affinity.errors import (
        AffinityError as AffinityError,
    )
    from affinity.errors import (
        CannotBind as CannotBind,
    )
    from affinity.errors import (
        DeviceError as DeviceError,
    )
    from affinity.errors import (
        ForeignHost as ForeignHost,
    )
    from affinity.errors import (
        PlacementError as PlacementError,
    )
    from affinity.errors import (
        PluginError as PluginError,
    )
    from affinity.errors import (
        SettingsError as SettingsError,
    )
    from affinity.errors import (
        TopologyError as TopologyError,
    )
    from affinity.errors import (
        UnknownGpu as UnknownGpu,
    )
    from affinity.errors import (
        UsageError as UsageError,
    )
    from affinity.host.cpuset import CpuSet as CpuSet
    from affinity.host.cpuset import NodeSet as NodeSet
    from affinity.host.devices import (
        DeviceProvider as DeviceProvider,
    )
    from affinity.host.devices import (
        Evidence as Evidence,
    )
    from affinity.host.devices import (
        Gpu as Gpu,
    )
    from affinity.host.devices import (
        Source as Source,
    )
    from affinity.host.host import Host as Host
    from affinity.host.kernel import Kernel as Kernel
    from affinity.host.memory import MemoryMode as MemoryMode
    from affinity.host.memory import MemoryPolicy as MemoryPolicy
    from affinity.host.topology import (
        Cpu as Cpu,
    )
    from affinity.host.topology import (
        Node as Node,
    )
    from affinity.host.topology import (
        Origin as Origin,
    )
    from affinity.host.topology import (
        PciAddress as PciAddress,
    )
    from affinity.host.topology import (
        PciDevice as PciDevice,
    )
    from affinity.host.topology import (
        Topology as Topology,
    )
    from affinity.inprocess import bind_process as bind_process
    from affinity.inprocess import set_and_read_back as set_and_read_back
    from affinity.launch import RUNNING as RUNNING
    from affinity.launch import Launch as Launch
    from affinity.launch import LaunchMode as LaunchMode
    from affinity.policy import (
        Placement as Placement,
    )
    from affinity.policy import (
        PlacementPolicy as PlacementPolicy,
    )
    from affinity.policy import (
        allowed_on as allowed_on,
    )
    from affinity.policy import (
        memory_beside as memory_beside,
    )
    from affinity.report import BindReport as BindReport
    from affinity.report import Observed as Observed
    from affinity.restore import restored as restored
    from affinity.settings import Settings as Settings
    from affinity.spawn import starting as starting
    from affinity.split import SplitPolicy as SplitPolicy
    from affinity.split import contiguous as contiguous
    from affinity.split import gpu_places as gpu_places
    from affinity.split import l3_domains as l3_domains
    from affinity.split import package_nodes as package_nodes
    from affinity.split import physical_cores as physical_cores
    from affinity.split import usable_cores as usable_cores
    from affinity.split import usable_cpus as usable_cpus
    from affinity.split import whole_nodes as whole_nodes
    from affinity.split import with_package as with_package
    from affinity.strategy import AffinityStrategy as AffinityStrategy
    from affinity.strategy import Outcome as Outcome
    from affinity.support import Support as Support

_HOME = {
    "api": "Plan bind plan plan_each spawning",
    "degradation": "Degradation",
    "errors": "AffinityError CannotBind DeviceError ForeignHost PlacementError PluginError SettingsError "
    "TopologyError UnknownGpu UsageError",
    "host.cpuset": "CpuSet NodeSet",
    "host.devices": "DeviceProvider Evidence Gpu Source",
    "host.host": "Host",
    "host.kernel": "Kernel",
    "host.memory": "MemoryMode MemoryPolicy",
    "host.topology": "Cpu Node Origin PciAddress PciDevice Topology",
    "inprocess": "bind_process set_and_read_back",
    "launch": "RUNNING Launch LaunchMode",
    "policy": "Placement PlacementPolicy allowed_on memory_beside",
    "report": "BindReport Observed",
    "restore": "restored",
    "settings": "Settings",
    "spawn": "starting",
    "split": "SplitPolicy contiguous gpu_places l3_domains package_nodes physical_cores usable_cores usable_cpus "
    "whole_nodes with_package",
    "strategy": "AffinityStrategy Outcome",
    "support": "Support",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = sorted(_MODULE)  # noqa: PLE0605
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'affinity' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"affinity.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
