"""`affinity new-plugin`: a distribution of one's own, from the one that this project tests in every run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

#: The template's name as a distribution and plugin, as a package, and at the front of its classes' names.
NAMES = ("affinity-example", "affinity_example", "AffinityExample")


@click.command()
@click.argument("name")
@click.option(
    "--directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="Where the new folder goes (default: here).",
)
def command(*, name: str, directory: Path) -> None:
    """Write a plugin distribution NAME: a strategy, a policy, a launcher, and tests that hold them to the contract.

    NAME, such as acme-numa, becomes the folder, the distribution and the name of the plugins; acme_numa the package.
    """
    from affinity.errors import UsageError

    _check(name)
    filled = dict(zip(NAMES, (name, name.replace("-", "_"), name.title().replace("-", "")), strict=True))
    target = directory / name
    try:
        target.mkdir()
        for path, source in _files(files("affinity") / "_template"):
            file = target / _fill(path, filled)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_fill(source.read_text(encoding="utf-8"), filled), encoding="utf-8")
    except FileExistsError as there:
        raise UsageError(f"{target} is there already, and nothing is overwritten: choose another name") from there
    except OSError as refused:
        raise UsageError(f"{refused.filename}: {refused.strerror}; choose another --directory") from refused
    shown = target if target.is_absolute() else f"./{target}"  # without a slash pip takes it for a name
    click.echo(f"{shown}: a strategy, a policy and a launcher named {name}. Install, then test:")
    click.echo(f"    python -m pip install -e '{shown}[tests]'")
    click.echo(f"    python -m pytest {shown}")


def _check(name: str) -> None:
    """Refuse a name that could not be installed, imported or selected later. Raises UsageError."""
    from importlib.util import find_spec
    from keyword import iskeyword

    from affinity.errors import UsageError
    from affinity.plugins import Plugins

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"{name!r} is no name for a plugin: expected lower-case words joined by hyphens, as acme-numa")
    if name == "auto" or iskeyword(name):
        raise UsageError(f"{name!r} means something else already: choose another name, as acme-numa")
    plugins = Plugins()
    if name in (*plugins.strategies.names(), *plugins.policies.names(), *plugins.launchers.names()):
        raise UsageError(f"a plugin {name!r} is installed already (see `affinity strategies`): choose another name")
    package = name.replace("-", "_")
    found = find_spec(package)
    if found is not None and found.origin is not None:  # a mere folder of that name is in nobody's way
        raise UsageError(f"there is a package {package!r} here already, which yours would hide: choose another name")


def _files(folder: Traversable, below: str = "") -> Iterator[tuple[str, Traversable]]:
    """The files of a folder, each with its path below it; what running them left there is none of them."""
    for entry in folder.iterdir():
        if entry.name == "__pycache__" or entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(entry, f"{below}{entry.name}/")
        else:
            yield f"{below}{entry.name}", entry


def _fill(text: str, filled: dict[str, str]) -> str:
    for ours, theirs in filled.items():
        text = text.replace(ours, theirs)
    return text
