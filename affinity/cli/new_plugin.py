"""`affinity new-plugin`: write a plugin distribution from the template that this project's tests run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

#: The template's name as a distribution and plugin, as a package, and in the names of its classes and variables.
NAMES = ("affinity-example", "affinity_example", "AffinityExample", "AFFINITY_EXAMPLE")


@click.command()
@click.argument("name")
@click.option(
    "--directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="Directory of the new folder (default: the current one).",
)
def command(*, name: str, directory: Path) -> None:
    """Write a plugin distribution NAME: a strategy, a policy, a launcher, and their contract tests.

    NAME, such as acme-numa, is the name of the folder, the distribution and the plugins; the package is acme_numa.
    """
    from affinity.errors import UsageError

    _check(name)
    package = name.replace("-", "_")
    filled = dict(zip(NAMES, (name, package, name.title().replace("-", ""), package.upper()), strict=True))
    target = directory / name
    try:
        target.mkdir()
        for path, source in _files(files("affinity") / "_template"):
            file = target / _fill(path, filled)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_fill(source.read_text(encoding="utf-8"), filled), encoding="utf-8")
    except FileExistsError as error:
        raise UsageError(f"{target} already exists and is not overwritten: choose another name") from error
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}; choose another --directory") from error
    path = str(target) if target.is_absolute() else f"./{target}"  # pip reads a path without a slash as a package name
    click.echo(f"{path}: a strategy, a policy and a launcher named {name}. Install, then test:")
    click.echo(f"    python -m pip install -e '{path}[tests]'")
    click.echo(f"    python -m pytest {path}")


def _check(name: str) -> None:
    """Raise UsageError if a plugin of this name could not be installed, imported or selected."""
    from importlib.util import find_spec
    from keyword import iskeyword

    from affinity.errors import UsageError
    from affinity.plugins import Plugins

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"{name!r} is not a plugin name: expected lower-case words joined by hyphens, as acme-numa")
    if name == "auto" or iskeyword(name):
        raise UsageError(f"{name!r} is a reserved word: choose another name, as acme-numa")
    plugins = Plugins()
    if name in (*plugins.strategies.names(), *plugins.policies.names(), *plugins.launchers.names()):
        raise UsageError(f"plugin {name!r} is already installed (see `affinity strategies`): choose another name")
    package = name.replace("-", "_")
    found = find_spec(package)
    if found is not None and found.origin is not None:  # a folder without modules hides nothing
        raise UsageError(f"a package {package!r} already exists and would be hidden: choose another name")


def _files(folder: Traversable, below: str = "") -> Iterator[tuple[str, Traversable]]:
    """Yield each file of a folder with its relative path, without bytecode and hidden files."""
    for entry in folder.iterdir():
        if entry.name == "__pycache__" or entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(entry, f"{below}{entry.name}/")
        else:
            yield f"{below}{entry.name}", entry


def _fill(text: str, filled: dict[str, str]) -> str:
    for placeholder, value in filled.items():
        text = text.replace(placeholder, value)
    return text
