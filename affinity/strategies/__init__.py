"""HOW a placement is put in force. Entry-point group `affinity.strategies`."""

from affinity.launchers.launch import RUNNING as RUNNING
from affinity.launchers.launch import Launch as Launch
from affinity.launchers.launch import LaunchMode as LaunchMode
from affinity.observation import Observation as Observation
from affinity.policies.placement import Placement as Placement
from affinity.strategies.process import bind_from_outside as bind_from_outside
from affinity.strategies.process import bind_process as bind_process
from affinity.strategies.process import set_mempolicy_verified as set_mempolicy_verified
from affinity.strategies.process import thread_placed as thread_placed
from affinity.strategies.strategy import AffinityStrategy as AffinityStrategy
from affinity.strategies.strategy import Outcome as Outcome
from affinity.strategies.strategy import WorkerStart as WorkerStart
from affinity.support import Support as Support
from affinity.variables import Option as Option
