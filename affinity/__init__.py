"""Put a GPU worker on the CPUs and the memory next to its GPU, before it allocates anything.

    report = affinity.bind()              in the worker, before it builds its scheduler
    affinity.get_context(gpu=3)           in the parent: a multiprocessing context whose processes start bound
    with affinity.spawning(gpu=3): ...    in the parent, around starts that other code makes
    affinity.plan(gpu=3)                  what would be done, and why
    with affinity.restored(): ...         the state before is put back at the end

Names are loaded when first used: `import affinity` alone costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from affinity._public import *
else:

    def __getattr__(name: str) -> Any:
        if not name.startswith("_"):  # `_public` itself is looked up here before it is imported
            from affinity import _public

            if name in vars(_public):
                value = globals()[name] = getattr(_public, name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        from affinity import _public

        return sorted(name for name in vars(_public) if not name.startswith("_"))
