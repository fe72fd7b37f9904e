"""The engines that are installed here: whether this package's plugin finds the functions that it replaces.

Nothing of an engine is imported, which would take seconds: its files are read.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from affinity.doctor import Check, Subject, Verdict
from affinity.registry import BUILTIN

if TYPE_CHECKING:
    from affinity.integrations.engine import Hook


class Engine(NamedTuple):
    """An engine that loads plugins. name: of its package. group: of entry points."""

    name: str
    group: str


ENGINES = (Engine("sglang", "sglang.srt.plugins"), Engine("vllm", "vllm.general_plugins"))


def check_engines(subject: Subject) -> Iterator[Check]:
    """Yield a check for each engine that is installed and for which there is a plugin; none for another machine."""
    if subject.host.is_foreign:
        return
    for engine in ENGINES:
        spec = find_spec(engine.name)
        folders = [] if spec is None else list(spec.submodule_search_locations or ())
        for point in _plugins(engine) if folders else ():
            yield from _check_hooks(engine, folders[0], import_module(point.module).HOOKS)


def _plugins(engine: Engine) -> list[EntryPoint]:
    try:
        return list(distribution(BUILTIN).entry_points.select(group=engine.group))
    except PackageNotFoundError:
        return []


def _check_hooks(engine: Engine, folder: str, hooks: tuple[Hook, ...]) -> Iterator[Check]:
    from affinity.integrations.engine import difference  # loads what a worker needs: only if there is an engine

    try:
        release = version(engine.name)
    except PackageNotFoundError:  # a folder on sys.path
        release = "of unknown version"
    moved = False
    for hook in hooks:
        found = _first_parameters(hook, folder)
        if found != hook.parameters:
            moved = True
            value, remedy = difference(hook, found, release)
            yield Check(engine.name, value, Verdict.WARN, remedy)
    if not moved:
        yield Check(engine.name, f"{release}: its {len(hooks)} functions are where the plugin expects them")


def _first_parameters(hook: Hook, folder: str) -> tuple[str, ...] | None:
    """Return the names of the first parameters of an engine's function, None if it is not in the file."""
    path = os.path.join(folder, *hook.module.split(".")[1:])
    source = next((text for file in (f"{path}.py", os.path.join(path, "__init__.py")) if (text := _text(file))), "")
    *classes, name = hook.name.split(".")
    start = 0
    for heading in (*(rf"class {part}\b" for part in classes), rf"(?:async )?def {name}\("):
        found = re.compile(rf"^[ \t]*{heading}", re.MULTILINE).search(source, start)
        if found is None:
            return None
        start = found.start()
    for end in re.compile(r":[ \t]*(?:#.*)?$", re.MULTILINE).finditer(source, start):
        try:
            (function,) = ast.parse(source[start : end.start()].strip() + ": ...").body
        except SyntaxError:  # this colon is not the one that ends the heading
            continue
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        arguments = function.args
        return tuple(a.arg for a in (*arguments.posonlyargs, *arguments.args))[: len(hook.parameters)]
    return None


def _text(file: str) -> str:
    try:
        with open(file, encoding="utf-8", errors="replace") as source:
            return source.read()
    except OSError:
        return ""
