"""How a worker process was started, and which GPUs its starter gave it."""

from affinity.launchers.launch import RUNNING as RUNNING
from affinity.launchers.launch import Launch as Launch
from affinity.launchers.launch import LaunchMode as LaunchMode
