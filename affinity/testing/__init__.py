"""Tests of strategies, policies and engines on simulated machines.

    trees      write a machine's sysfs tree into a directory
    machines   named machines: `machines.load("dgx-h100")`
    fakehost   `FakeHost`: a topology with a simulated kernel that behaves like Linux
    contract   `StrategyContract`, `PolicyContract`, `LauncherContract`: test classes to inherit

A pytest plugin (fixtures `machine`, `fake_host` and `installed_host`) comes with the package. Names are loaded when
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from affinity.testing.contract import PolicyContract as PolicyContract
    from affinity.testing.contract import StrategyContract as StrategyContract
    from affinity.testing.fakehost import FakeHost as FakeHost
    from affinity.testing.launcher_contract import LauncherContract as LauncherContract
    from affinity.testing.machines import Machine as Machine
    from affinity.testing.simkernel import Call as Call
    from affinity.testing.simkernel import Executed as Executed
    from affinity.testing.simkernel import SimulatedKernel as SimulatedKernel

_HOME = {
    "Call": "simkernel",
    "Executed": "simkernel",
    "FakeHost": "fakehost",
    "LauncherContract": "launcher_contract",
    "Machine": "machines",
    "PolicyContract": "contract",
    "SimulatedKernel": "simkernel",
    "StrategyContract": "contract",
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'affinity.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"affinity.testing.{_HOME[name]}"), name)
