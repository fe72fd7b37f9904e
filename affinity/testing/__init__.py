"""Try strategies, policies and engines on machines that nobody here owns.

    trees      write a machine's sysfs tree into a directory
    machines   named machines: `machines.load("dgx-h100")`

Names are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from affinity.testing.machines import Machine as Machine

_HOME = {
    "Machine": "machines",
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'affinity.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"affinity.testing.{_HOME[name]}"), name)
