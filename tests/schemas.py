"""The JSON Schemas of the documentation, and validation of what a command prints."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

FOLDER = Path(__file__).resolve().parent.parent / "docs/reference/schemas"


@functools.cache
def validator(command: str) -> Draft202012Validator:
    """Of `affinity COMMAND --json`."""
    return Draft202012Validator(json.loads((FOLDER / f"{command}.json").read_text()))


def check(command: str, value: object) -> None:
    """Raise AssertionError, with the place, if the value is not what the schema of this command describes."""
    wrong = best_match(validator(command).iter_errors(value))
    assert wrong is None, f"affinity {command} --json: {wrong.json_path}: {wrong.message[:500]}"


def load(command: str, text: str) -> Any:
    """The value of a text that `affinity COMMAND --json` printed, which its schema describes."""
    value = json.loads(text)
    check(command, value)
    return value
