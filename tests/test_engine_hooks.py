"""The functions that the plugins of engines replace are in the engines, as recorded from their wheels."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

RECORDS = sorted((Path(__file__).parent / "data" / "engines").glob("*.json"))


def test_there_are_records() -> None:
    """Of each engine; `python tests/engines/record.py` makes them."""
    assert [record.stem for record in RECORDS] == ["sglang", "vllm"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.stem)
def test_the_hooks_of_a_plugin_are_in_the_recorded_release_of_its_engine(record: Path) -> None:
    """Each one, with the first parameters that are relied on."""
    functions = json.loads(record.read_text())["functions"]
    hooks = import_module(f"affinity.integrations.{record.stem}").HOOKS
    assert hooks
    for hook in hooks:
        name = f"{hook.module}.{hook.name}"
        assert name in functions, f"{name} is not recorded: run tests/engines/record.py"
        assert functions[name] is not None, f"{name} is not in the engine"
        assert tuple(functions[name][: len(hook.parameters)]) == hook.parameters, name
