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
    from affinity.devices.gpu import (
        DeviceProvider as DeviceProvider,
    )
    from affinity.devices.gpu import (
        Evidence as Evidence,
    )
    from affinity.devices.gpu import (
        Gpu as Gpu,
    )
    from affinity.devices.gpu import (
        Source as Source,
    )
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
    from affinity.host import Host as Host
    from affinity.kernel.linux import Kernel as Kernel
    from affinity.kernel.mempolicy import MemoryMode as MemoryMode
    from affinity.kernel.mempolicy import MemoryPolicy as MemoryPolicy
    from affinity.launchers.launch import RUNNING as RUNNING
    from affinity.launchers.launch import Launch as Launch
    from affinity.launchers.launch import LaunchMode as LaunchMode
    from affinity.policies.policy import (
        Placement as Placement,
    )
    from affinity.policies.policy import (
        PlacementPolicy as PlacementPolicy,
    )
    from affinity.policies.policy import (
        allowed_on as allowed_on,
    )
    from affinity.policies.policy import (
        memory_beside as memory_beside,
    )
    from affinity.policies.split import SplitPolicy as SplitPolicy
    from affinity.policies.split import contiguous as contiguous
    from affinity.policies.split import gpu_places as gpu_places
    from affinity.policies.split import l3_domains as l3_domains
    from affinity.policies.split import package_nodes as package_nodes
    from affinity.policies.split import physical_cores as physical_cores
    from affinity.policies.split import usable_cores as usable_cores
    from affinity.policies.split import usable_cpus as usable_cpus
    from affinity.policies.split import whole_nodes as whole_nodes
    from affinity.policies.split import with_package as with_package
    from affinity.report.report import BindReport as BindReport
    from affinity.report.report import Observed as Observed
    from affinity.report.restore import restored as restored
    from affinity.settings import Settings as Settings
    from affinity.strategies.process import bind_process as bind_process
    from affinity.strategies.process import set_and_read_back as set_and_read_back
    from affinity.strategies.start import starting as starting
    from affinity.strategies.strategy import AffinityStrategy as AffinityStrategy
    from affinity.strategies.strategy import Outcome as Outcome
    from affinity.support import Support as Support
    from affinity.topology.cpuset import CpuSet as CpuSet
    from affinity.topology.cpuset import NodeSet as NodeSet
    from affinity.topology.model import (
        Cpu as Cpu,
    )
    from affinity.topology.model import (
        Node as Node,
    )
    from affinity.topology.model import (
        Origin as Origin,
    )
    from affinity.topology.model import (
        PciAddress as PciAddress,
    )
    from affinity.topology.model import (
        PciDevice as PciDevice,
    )
    from affinity.topology.model import (
        Topology as Topology,
    )

_HOME = {
    "api": "Plan bind plan plan_each spawning",
    "degradation": "Degradation",
    "errors": "AffinityError CannotBind DeviceError ForeignHost PlacementError PluginError SettingsError "
    "TopologyError UnknownGpu UsageError",
    "topology.cpuset": "CpuSet NodeSet",
    "devices.gpu": "DeviceProvider Evidence Gpu Source",
    "host": "Host",
    "kernel.linux": "Kernel",
    "kernel.mempolicy": "MemoryMode MemoryPolicy",
    "topology.model": "Cpu Node Origin PciAddress PciDevice Topology",
    "strategies.process": "bind_process set_and_read_back",
    "launchers.launch": "RUNNING Launch LaunchMode",
    "policies.policy": "Placement PlacementPolicy allowed_on memory_beside",
    "report.report": "BindReport Observed",
    "report.restore": "restored",
    "settings": "Settings",
    "strategies.start": "starting",
    "policies.split": "SplitPolicy contiguous gpu_places l3_domains package_nodes physical_cores usable_cores "
    "usable_cpus whole_nodes with_package",
    "strategies.strategy": "AffinityStrategy Outcome",
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
