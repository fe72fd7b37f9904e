"""The code's own structure: imports point one way, plugins use the public door, and importing costs nothing."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import affinity

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "affinity"

#: A folder or a module of the core may import, from this package, only what stands above it.
LAYERS = [
    "errors", "support", "topology", "kernel", "degradation", "handoff", "variables", "collisions", "settings",
    "registry", "host", "devices", "launchers", "observation", "policies", "strategies", "plugins", "observe",
    "selection", "report", "doctor", "api", "external", "watch", "benchmark", "render", "_public",
]  # fmt: skip

#: What uses the core; the core imports none of it.
USERS = ("integrations", "cli", "testing", "__main__")


#: The folders whose `__init__` plugins may import from, besides `affinity` itself.
GROUPS = ("topology", "kernel", "devices", "launchers", "policies", "strategies")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports, at its top or inside a function, and whether only for type checking."""
    tree = ast.parse(path.read_text())
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for branch in node.body
        for inner in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module, id(node) in typing
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in typing


def modules() -> dict[str, Path]:
    """Every module of both packages by its dotted name."""
    found = {}
    for package in (PACKAGE, ROOT / "plugins" / "affinity_plugins"):
        for path in package.rglob("*.py"):
            parts = path.relative_to(package.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def layer(module: str) -> str:
    """The folder or the flat module that a module of `affinity` is in; "" for `affinity` itself."""
    return module.partition(".")[2].partition(".")[0]


CORE = sorted(name for name in MODULES if name.startswith("affinity.") and layer(name) not in USERS)


def test_every_folder_has_its_place() -> None:
    """A new one is put in its place on purpose."""
    assert {layer(name) for name in CORE} == set(LAYERS)


@pytest.mark.parametrize("name", CORE)
def test_imports_point_downwards(name: str) -> None:
    """Observe, place, select, bind, verify: no folder imports one that comes after it, nor a user of the core."""
    mine = LAYERS.index(layer(name))
    for module, typing in imports(MODULES[name]):
        if typing or not module.startswith("affinity.") or module not in MODULES:
            continue
        assert layer(module) in LAYERS, f"{name} imports {module}"
        assert LAYERS.index(layer(module)) <= mine, f"{name} imports {module}"


def test_no_module_imports_itself_around_a_circle() -> None:
    """Run-time imports of both packages, those inside functions included."""
    graph = {
        name: {m for m, typing in imports(path) if not typing and m in MODULES and m != name}
        for name, path in MODULES.items()
    }
    while True:
        ends = {name for name, targets in graph.items() if not targets & graph.keys()}
        if not ends:
            break
        for name in ends:
            del graph[name]
    assert {name: sorted(targets & graph.keys()) for name, targets in graph.items()} == {}


PLUGINS = [*(ROOT / "plugins").rglob("*.py"), *PACKAGE.glob("integrations/*/launcher.py")]


@pytest.mark.parametrize("path", sorted(PLUGINS), ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_plugins_use_the_public_names_alone(path: Path) -> None:
    """Built-ins go through the same door as everyone's: `affinity`, and the folders of the groups."""
    own = f"affinity.integrations.{path.parent.name}"
    doors = {"affinity", *(f"affinity.{group}" for group in GROUPS)}
    for module, _ in imports(path):
        if module.startswith("affinity.") and not module.startswith(("affinity.testing", own)):
            assert module in doors, module


def test_only_the_kernel_folder_calls_the_system() -> None:
    """Foreign functions, and this machine's /proc by its absolute path; a captured machine has a /proc of its own."""
    for name in CORE:
        if layer(name) != "kernel":
            assert "ctypes" not in {module for module, _ in imports(MODULES[name])}, name
            literals = [n.value for n in ast.walk(ast.parse(MODULES[name].read_text())) if isinstance(n, ast.Constant)]
            assert not [text for text in literals if isinstance(text, str) and text.startswith("/proc")], name


def test_one_module_imports_stevedore() -> None:
    """The registry, where its traps are kept shut."""
    users = {p.name for p in PACKAGE.rglob("*.py") for module, _ in imports(p) if module.startswith("stevedore")}
    assert users == {"registry.py"}


def test_nothing_but_ray_integration_imports_ray() -> None:
    """The core never does."""
    users = {p for p in PACKAGE.rglob("*.py") for module, _ in imports(p) if module.split(".")[0] == "ray"}
    assert all("integrations" in p.parts for p in users)


def test_the_core_names_no_launcher() -> None:
    """But for the launch modes that bear four names, and the table of collisions; launchers are entry points."""
    names = r"\b(ray|raylet|torchrun|deepspeed|slurm|srun|mpi|openmpi|mpirun|hydra)\b"
    apart = {PACKAGE / "cli/ray.py", PACKAGE / "collisions.py", *(PACKAGE / "integrations").rglob("*.py")}
    for path in sorted(set(PACKAGE.rglob("*.py")) - apart):
        text = path.read_text()
        if path == PACKAGE / "launchers/launch.py":
            text = re.sub(r"^class LaunchMode.*?^#:", "", text, flags=re.DOTALL | re.MULTILINE)
        assert re.findall(names, text, re.IGNORECASE) == [], path


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
