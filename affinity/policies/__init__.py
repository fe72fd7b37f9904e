"""WHERE a worker goes. Entry-point group `affinity.policies`, and the functions that policies share."""

from affinity.launchers.launch import Launch as Launch
from affinity.observation import Observation as Observation
from affinity.policies.placement import Placement as Placement
from affinity.policies.policy import PlacementPolicy as PlacementPolicy
from affinity.policies.policy import allowed_cpus_of as allowed_cpus_of
from affinity.policies.policy import memory_for as memory_for
from affinity.policies.split import SplitPolicy as SplitPolicy
from affinity.policies.split import add_package_cores as add_package_cores
from affinity.policies.split import gpu_indices as gpu_indices
from affinity.policies.split import l3_domains as l3_domains
from affinity.policies.split import own_mask_reason as own_mask_reason
from affinity.policies.split import package_nodes as package_nodes
from affinity.policies.split import physical_cores as physical_cores
from affinity.policies.split import place_on_nodes as place_on_nodes
from affinity.policies.split import split_contiguous as split_contiguous
from affinity.policies.split import usable_cores as usable_cores
from affinity.policies.split import usable_cpus as usable_cpus
from affinity.variables import Option as Option
