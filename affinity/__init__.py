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
    from affinity.api import Plan as Plan, bind as bind, plan as plan, restored as restored, spawning as spawning
    from affinity.errors import (
        AffinityError as AffinityError,
        CannotBind as CannotBind,
        DeviceError as DeviceError,
        ForeignHost as ForeignHost,
        PlacementError as PlacementError,
        PluginError as PluginError,
        SettingsError as SettingsError,
        TopologyError as TopologyError,
        UnknownGpu as UnknownGpu,
        UsageError as UsageError,
    )
    from affinity.host.cpuset import CpuSet as CpuSet, NodeSet as NodeSet
    from affinity.host.devices import (
        DeviceProvider as DeviceProvider,
        Evidence as Evidence,
        Gpu as Gpu,
        Source as Source,
    )
    from affinity.host.host import Host as Host
    from affinity.host.kernel import Kernel as Kernel, MemoryMode as MemoryMode, MemoryPolicy as MemoryPolicy
    from affinity.host.topology import (
        Cpu as Cpu,
        Node as Node,
        Origin as Origin,
        PciAddress as PciAddress,
        PciDevice as PciDevice,
        Topology as Topology,
    )
    from affinity.inprocess import bind_process as bind_process, set_and_read_back as set_and_read_back
    from affinity.launch import RUNNING as RUNNING, Launch as Launch, LaunchMode as LaunchMode
    from affinity.policy import (
        Placement as Placement,
        PlacementPolicy as PlacementPolicy,
        allowed_on as allowed_on,
        memory_beside as memory_beside,
    )
    from affinity.report import BindReport as BindReport, Degradation as Degradation, Observed as Observed
    from affinity.settings import Settings as Settings
    from affinity.spawn import starting as starting
    from affinity.strategy import AffinityStrategy as AffinityStrategy, Outcome as Outcome
    from affinity.support import Support as Support

_HOME = {
    "api": "Plan bind plan restored spawning",
    "errors": "AffinityError CannotBind DeviceError ForeignHost PlacementError PluginError SettingsError "
    "TopologyError UnknownGpu UsageError",
    "host.cpuset": "CpuSet NodeSet",
    "host.devices": "DeviceProvider Evidence Gpu Source",
    "host.host": "Host",
    "host.kernel": "Kernel MemoryMode MemoryPolicy",
    "host.topology": "Cpu Node Origin PciAddress PciDevice Topology",
    "inprocess": "bind_process set_and_read_back",
    "launch": "RUNNING Launch LaunchMode",
    "policy": "Placement PlacementPolicy allowed_on memory_beside",
    "report": "BindReport Degradation Observed",
    "settings": "Settings",
    "spawn": "starting",
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
