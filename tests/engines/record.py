"""Record the signatures that the plugins of engines rely on: `python tests/engines/record.py [engine]`.

Download the current wheel of each engine from the package index by pip, without its dependencies, and read its source;
nothing of it is imported. The records in tests/data/engines are compared with the plugins by test_engine_hooks.py.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
import zipfile
from importlib import import_module
from pathlib import Path

from affinity.integrations.engine import Hook

RECORDS = Path(__file__).parent.parent / "data" / "engines"

#: Engine, and the distribution whose wheel is read; `affinity.integrations.<engine>.HOOKS` has the hooks.
ENGINES = {"sglang": "sglang", "vllm": "vllm"}


def parameters(source: str, name: str) -> list[str] | None:
    """Return the names of the parameters of a function, `Class.method` for a method; None if it is not there."""
    found: ast.AST = ast.parse(source)
    for part in name.split("."):
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        inner = [node for node in ast.walk(found) if isinstance(node, kinds) and node.name == part]
        if not inner:
            return None
        found = inner[0]
    assert isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef)
    return [argument.arg for argument in (*found.args.posonlyargs, *found.args.args)]


def record(engine: str) -> dict[str, object]:
    """Return the version of the current wheel, and each hooked function with the names of its parameters."""
    hooks: tuple[Hook, ...] = import_module(f"affinity.integrations.{engine}").HOOKS
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", folder, ENGINES[engine]], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            names = set(files.namelist())
            found: dict[str, list[str] | None] = {}
            for hook in hooks:
                path = hook.module.replace(".", "/")
                file = next((f for f in (f"{path}.py", f"{path}/__init__.py") if f in names), None)
                source = files.read(file).decode() if file is not None else ""
                found[f"{hook.module}.{hook.name}"] = parameters(source, hook.name)
        return {"version": wheel.name.split("-")[1], "functions": found}


if __name__ == "__main__":
    RECORDS.mkdir(exist_ok=True)
    for engine in sys.argv[1:] or ENGINES:
        recorded = record(engine)
        (RECORDS / f"{engine}.json").write_text(json.dumps(recorded, indent=2) + "\n")
        print(engine, recorded["version"])
