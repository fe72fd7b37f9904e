"""How a worker process was started. Entry-point group `affinity.launchers`."""

from affinity.launchers.launch import RUNNING as RUNNING
from affinity.launchers.launch import Launch as Launch
from affinity.launchers.launch import LaunchMode as LaunchMode
from affinity.launchers.launcher import EnvironmentLauncher as EnvironmentLauncher
from affinity.launchers.launcher import Launcher as Launcher
from affinity.launchers.launcher import ancestor as ancestor
