"""The code's own structure: imports point one way, plugins use the public door, and importing costs nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import affinity

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "affinity"

#: Each module may import, from this package, only what stands above it.
ORDER = [
    "errors", "support", "degradation",
    "topology.cpuset", "topology.model", "topology.sysfs", "topology.synthetic", "topology.archive",
    "kernel.mempolicy", "kernel.libnuma", "kernel.command", "kernel.capability", "kernel.procfs", "kernel.protocol",
    "kernel.process", "kernel.linux",
    "handoff", "variables", "settings", "registry",
    "host",
    "devices.gpu", "devices.provider", "devices.numa_node", "devices.ordinals",
    "devices.inventory", "devices.references",
    "launchers.launch", "observation",
    "policies.placement", "policies.policy", "policies.split",
    "strategies.strategy", "strategies.process", "strategies.start", "strategies.context",
    "plugins", "observe",
    "selection.rules", "selection.fallback",
    "report.observed", "report.report", "report.restore", "report.log",
    "api",
    "render.serialize", "_public",
]  # fmt: skip


#: The folders whose `__init__` plugins may import from, besides `affinity` itself.
GROUPS = ("topology", "kernel", "devices", "launchers", "policies", "strategies")
GROUPS_NAMES = {f"affinity.{group}" for group in GROUPS}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports, and whether only for type checking."""
    tree = ast.parse(path.read_text())
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in typing
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in typing
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in typing


def core() -> list[str]:
    """Every module of the core, as a dotted name."""
    found = [p.relative_to(PACKAGE).with_suffix("") for p in PACKAGE.rglob("*.py")]
    apart = {"testing", "cli", "integrations", "__main__"}
    return sorted(".".join(p.parts) for p in found if p.name != "__init__" and p.parts[0] not in apart)


def test_every_module_has_its_place_in_the_order() -> None:
    """A new module is put in its place on purpose."""
    assert set(core()) <= set(ORDER)


@pytest.mark.parametrize("name", core())
def test_imports_point_downwards(name: str) -> None:
    """Observe, place, select, bind, verify: nothing imports what comes after it."""
    for module, typing in imports(PACKAGE / (name.replace(".", "/") + ".py")):
        target = module.removeprefix("affinity.")
        if not typing and module.startswith("affinity.") and target in ORDER:
            assert ORDER.index(target) < ORDER.index(name), f"{name} imports {target}"


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").rglob("*.py")), ids=lambda p: p.stem)
def test_plugins_use_the_public_names_alone(path: Path) -> None:
    """Built-ins go through the same door as everybody's."""
    doors = [__import__(f"affinity.{group}", fromlist=["*"]) for group in GROUPS]
    for module, _ in imports(path):
        if module.startswith("affinity.") and not module.startswith("affinity.testing"):
            _, _, name = module.rpartition(".")
            assert module in GROUPS_NAMES or name in dir(affinity) or any(hasattr(d, name) for d in doors), module


def test_one_module_imports_stevedore() -> None:
    """The registry, where its traps are kept shut."""
    users = {p.name for p in PACKAGE.rglob("*.py") for module, _ in imports(p) if module.startswith("stevedore")}
    assert users == {"registry.py"}


def test_nothing_but_ray_integration_imports_ray() -> None:
    """The core never does."""
    users = {p for p in PACKAGE.rglob("*.py") for module, _ in imports(p) if module.split(".")[0] == "ray"}
    assert all("integrations" in p.parts for p in users)


HEAVY = ["stevedore", "importlib.metadata", "click", "rich", "ray", "pynvml", "torch", "numa", "multiprocessing"]


@pytest.mark.skipif("TOX_ENV_DIR" not in os.environ, reason="an editable install is the working tree; tox has a wheel")
def test_what_is_tested_is_what_is_installed() -> None:
    """Both packages come from the environment's wheel, here and in a child; the working tree hides what it lacks."""
    where = "import affinity, affinity_plugins; print(affinity.__file__, *affinity_plugins.__path__)"
    child = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, check=True, cwd=ROOT)
    for path in (affinity.__file__, *child.stdout.split()):
        assert Path(path).is_relative_to(os.environ["TOX_ENV_DIR"])


def test_importing_the_package_loads_nothing_heavy_and_changes_nothing() -> None:
    """`import affinity` pays for nothing it does not use; the environment is as it was."""
    text = (
        "import os, sys; before = dict(os.environ); import affinity\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], before == dict(os.environ))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[] True\n"


def test_every_public_name_is_there_and_documented() -> None:
    """And a name that is not is an AttributeError."""
    for name in dir(affinity):
        value = getattr(affinity, name)
        assert isinstance(value, frozenset) or value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        affinity.nothing  # noqa: B018
