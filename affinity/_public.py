"""The public names of `affinity`, each written once; `affinity/__init__.py` loads this module at first use."""

from affinity.api import Plan as Plan
from affinity.api import bind as bind
from affinity.api import get_context as get_context
from affinity.api import plan as plan
from affinity.api import plan_each as plan_each
from affinity.api import spawning as spawning
from affinity.degradation import Degradation as Degradation
from affinity.errors import AffinityError as AffinityError
from affinity.errors import BindError as BindError
from affinity.errors import PlacementError as PlacementError
from affinity.errors import PluginError as PluginError
from affinity.errors import SettingsError as SettingsError
from affinity.errors import UnknownGpuError as UnknownGpuError
from affinity.errors import UsageError as UsageError
from affinity.external import attach as attach
from affinity.host import Host as Host
from affinity.launchers.launch import LaunchMode as LaunchMode
from affinity.report.report import BindReport as BindReport
from affinity.report.restore import current_report as current_report
from affinity.report.restore import restored as restored
from affinity.settings import Settings as Settings
from affinity.topology.cpuset import CpuSet as CpuSet
from affinity.topology.cpuset import NodeSet as NodeSet
