"""The machine: CPUs, NUMA nodes, PCI devices. Plain values; nothing here calls the system."""

from affinity.errors import ForeignHostError as ForeignHostError
from affinity.errors import TopologyError as TopologyError
from affinity.topology.cpuset import CpuSet as CpuSet
from affinity.topology.cpuset import NodeSet as NodeSet
from affinity.topology.model import Cache as Cache
from affinity.topology.model import Cpu as Cpu
from affinity.topology.model import Nic as Nic
from affinity.topology.model import Node as Node
from affinity.topology.model import Origin as Origin
from affinity.topology.model import PciAddress as PciAddress
from affinity.topology.model import PciDevice as PciDevice
from affinity.topology.model import Topology as Topology
