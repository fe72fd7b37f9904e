"""Contact with Linux: system calls and /proc. No other folder makes either."""

from affinity.kernel.mempolicy import MemoryFlag as MemoryFlag
from affinity.kernel.mempolicy import MemoryMode as MemoryMode
from affinity.kernel.mempolicy import MemoryPolicy as MemoryPolicy
from affinity.kernel.pages import ResidentBytes as ResidentBytes
from affinity.kernel.protocol import Kernel as Kernel
from affinity.kernel.protocol import Process as Process
from affinity.kernel.protocol import ancestors as ancestors
from affinity.kernel.protocol import multiprocessing_parent as multiprocessing_parent
