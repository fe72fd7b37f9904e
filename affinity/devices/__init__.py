"""GPUs, and the nodes that they are next to. Entry-point group `affinity.devices`."""

from affinity.devices.gpu import Gpu as Gpu
from affinity.devices.gpu import NodeEvidence as NodeEvidence
from affinity.devices.gpu import NodeSource as NodeSource
from affinity.devices.provider import DeviceProvider as DeviceProvider
from affinity.devices.use import EVERY_PROCESS as EVERY_PROCESS
from affinity.devices.use import Evidence as Evidence
from affinity.devices.use import GpuUse as GpuUse
from affinity.devices.use import ProcessFilter as ProcessFilter
from affinity.errors import DeviceError as DeviceError
from affinity.support import Support as Support
from affinity.variables import Option as Option
