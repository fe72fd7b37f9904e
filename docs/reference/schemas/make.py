"""Write the JSON Schemas of what each command prints with `--json`: `python docs/reference/schemas/make.py`.

Draft 2020-12, one file a command, each complete in itself. An object has the keys that affinity/render/serialize.py
gives it and no others; tests/schemas.py validates what the tests print.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from affinity import LaunchMode
from affinity.benchmark.server import QUANTITIES
from affinity.devices import Evidence
from affinity.devices.links import Link
from affinity.doctor import Verdict
from affinity.kernel import MemoryMode
from affinity.render.serialize import VERSION
from affinity.report.locality import Locality
from affinity.topology import Origin

HERE = Path(__file__).resolve().parent

Schema = dict[str, Any]


def record(**keys: Schema) -> Schema:
    """Return the schema of an object with these keys, all of them required."""
    return {"type": "object", "properties": keys, "required": list(keys), "additionalProperties": False}


def listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(members: type[enum.Enum], *more: str) -> Schema:
    return {"enum": [*(member.value for member in members), *more]}


def by(name: str, values: Schema) -> Schema:
    """Return the schema of an object by names that match a pattern."""
    return {"type": "object", "patternProperties": {name: values}, "additionalProperties": False}


def defined(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
LOAD: Schema = {"type": "number", "minimum": 0}
SECONDS: Schema = {"type": "number", "minimum": 0}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
VERSION_KEY: Schema = {"const": VERSION}
_CPUS = r"^(\d+(-\d+)?(,\d+(-\d+)?)*)?$"
BY_NODE = by(r"^\d+$", COUNT)
BY_MASK = by(_CPUS, COUNT)

PLACEMENT: Schema = {
    "nodes": defined("nodes"),
    "cpus": nullable(defined("cpus")),
    "memory": defined("memory"),
    "placement_reason": TEXT,
}

GPU: Schema = {
    "name": TEXT,
    "pci_bus_id": nullable(defined("pci_bus_id")),
    "uuid": nullable(TEXT),
    "vendor": TEXT,
    "model": TEXT,
    "node": nullable(COUNT),
    "node_reason": TEXT,
}

PLAN: Schema = {
    "version": VERSION_KEY,
    "gpu": nullable(defined("gpu")),
    "gpus": listed(defined("gpu")),
    "references": listed(TEXT),
    "node": nullable(COUNT),
    **PLACEMENT,
    "strategy": TEXT,
    "fallbacks": listed(TEXT),
    "reason": TEXT,
    "problem": nullable(TEXT),
    "policy": TEXT,
    "launch_mode": one_of(LaunchMode),
    "launch_reason": TEXT,
    "launcher": nullable(TEXT),
    "notes": listed(TEXT),
}

SETTING: Schema = {
    "setting": TEXT,
    "variable": TEXT,
    "meaning": TEXT,
    "value": {"type": ["boolean", "integer", "number", "string", "array", "null"]},
    "text": TEXT,
    "decided_by": nullable(TEXT),
    "accepted": TEXT,
}

OPTION: Schema = {**SETTING, "setting": {"const": "options"}, "error": nullable(TEXT)}

DEGRADATION = record(tried=TEXT, errno=nullable(TEXT), said=TEXT, remedy=nullable(TEXT))

REPORT: Schema = {
    "version": VERSION_KEY,
    "launch_mode": one_of(LaunchMode),
    "launcher": nullable(TEXT),
    "gpus": listed(defined("gpu")),
    "strategy": TEXT,
    "reason": TEXT,
    "requested": nullable(defined("placement")),
    "already": FLAG,
    "satisfied": FLAG,
    "observed": record(
        cpus=nullable(defined("cpus")),
        memory=nullable(defined("memory")),
        threads=COUNT,
        threads_within=nullable(COUNT),
        masks=BY_MASK,
        resident=nullable(BY_NODE),
        resident_sampled=nullable(COUNT),
        local_share=nullable(SHARE),
    ),
    "moved": COUNT,
    "move_seconds": SECONDS,
    "left": COUNT,
    "degradations": listed(defined("degradation")),
    "seconds_since_start": SECONDS,
}

PLUGIN: Schema = {
    "name": TEXT,
    "distribution": TEXT,
    "version": TEXT,
    "target": TEXT,
    "can_act": nullable(FLAG),
    "reason": TEXT,
    "error": nullable(TEXT),
    "options": listed(record(**OPTION)),
}

MODES: Schema = {"launch_modes": listed(one_of(LaunchMode))}

PROCESS: Schema = {
    "pid": COUNT,
    "identity": nullable(TEXT),
    "user": nullable(TEXT),
    "command": listed(TEXT),
    "worker": nullable(TEXT),
    "seconds_since_start": nullable(SECONDS),
    "gpu": nullable(defined("gpu")),
    "pci_bus_id": nullable(defined("pci_bus_id")),
    "evidence": one_of(Evidence),
    "evidence_reason": TEXT,
    "cpus": nullable(defined("cpus")),
    "threads": nullable(COUNT),
    "threads_inside": nullable(COUNT),
    "masks": BY_MASK,
    "policies": {"type": "object", "additionalProperties": COUNT},
    "resident": nullable(BY_NODE),
    "resident_sampled": nullable(COUNT),
    "local_share": nullable(SHARE),
    "local_share_error": nullable(SHARE),
    "placement": nullable(defined("placement")),
    "bound": nullable(
        record(
            strategy=TEXT,
            since=SECONDS,
            cpus=nullable(defined("cpus")),
            memory=nullable(TEXT),
            gpus=listed(TEXT),
        )
    ),
    "locality": one_of(Locality),
    "reason": TEXT,
    "remedy": nullable(TEXT),
}

MACHINE: Schema = {
    "version": VERSION_KEY,
    "origin": one_of(Origin),
    "detail": TEXT,
    "online_cpus": defined("cpus"),
    "allowed_cpus": defined("cpus"),
    "allowed_nodes": defined("nodes"),
    "packages": listed(record(id=COUNT, cpus=defined("cpus"), nodes=defined("nodes"), cores=COUNT)),
    "nodes": listed(
        record(
            id=COUNT,
            cpus=defined("cpus"),
            allowed_cpus=defined("cpus"),
            cores=listed(defined("cpus")),
            memory=nullable(COUNT),
            memory_free=nullable(COUNT),
            memory_allowed=FLAG,
            distances=BY_NODE,
            gpus=listed(TEXT),
        )
    ),
    "caches": listed(
        record(
            level=COUNT,
            type={"enum": ["data", "instruction", "unified"]},
            size=nullable(COUNT),
            cpus=listed(defined("cpus")),
        )
    ),
    "gpus": listed(
        record(
            reference=TEXT,
            **GPU,
            visible=FLAG,
            nearest_nics=listed(TEXT),
            links={"type": "object", "additionalProperties": {"enum": [*(link.name for link in Link), None]}},
        )
    ),
    "nics": listed(
        record(
            name=TEXT,
            pci_bus_id=defined("pci_bus_id"),
            rdma_devices=listed(TEXT),
            interfaces=listed(TEXT),
            node=nullable(COUNT),
        )
    ),
    "notes": listed(TEXT),
}

EXPLANATION: Schema = {
    **PLAN,
    "rules": listed(record(rule=COUNT, condition=TEXT, applies=FLAG, reason=TEXT)),
    "skipped": listed(record(strategy=TEXT, reason=TEXT)),
    "settings": listed({"anyOf": [record(**SETTING), record(**OPTION)]}),
    "collisions": listed(record(variable=TEXT, switch=TEXT, owner=TEXT, effect=TEXT, use=TEXT, source=TEXT)),
}

ATTACHED: Schema = {
    "anyOf": [
        record(pid=COUNT, **REPORT),
        record(
            pid=COUNT,
            **PLAN,
            observed=record(threads=COUNT, masks=BY_MASK, resident=nullable(BY_NODE), resident_sampled=nullable(COUNT)),
            degradations=listed(defined("degradation")),
        ),
        record(pid=COUNT, undone={"const": True}, masks=BY_MASK),
        record(pid=COUNT, left_alone=TEXT),
        record(pid=COUNT, error=TEXT),
    ]
}

ACTOR: Schema = record(
    version=VERSION_KEY,
    actor=TEXT,
    name=TEXT,
    node=TEXT,
    host=TEXT,
    pid=COUNT,
    report={
        "anyOf": [
            defined("report"),
            record(requested={"type": "null"}, satisfied={"const": False}, gpus={"const": []}),  # it cannot be read
            {"type": "null"},
        ]
    },
    gpus=listed(defined("gpu")),
    threads=COUNT,
    resident=nullable(BY_NODE),
    resident_sampled=COUNT,
    process=nullable(defined("process")),
    attached={
        "anyOf": [
            record(report=defined("report")),
            record(left_alone=TEXT),
            record(error=TEXT, exit_status=COUNT),
            {"type": "null"},
        ]
    },
    error=TEXT,
    outside=nullable(COUNT),
    holds=nullable(FLAG),
    local_share=nullable(SHARE),
)

#: What several schemas refer to; a file has those that it uses.
DEFINITIONS: dict[str, Schema] = {
    "cpus": {"type": "string", "pattern": _CPUS, "description": "the kernel's list format, as 0-3,8"},
    "nodes": listed(COUNT),
    "pci_bus_id": {"type": "string", "pattern": r"^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$"},
    "memory": record(mode=one_of(MemoryMode, "none"), nodes=defined("nodes")),
    "placement": record(**PLACEMENT),
    "gpu": record(**GPU),
    "degradation": DEGRADATION,
    "plan": record(**PLAN),
    "report": record(**REPORT),
    "machine": record(**MACHINE),
    "process": record(**PROCESS),
}

#: By file: what `affinity COMMAND --json` prints.
SCHEMAS: dict[str, Schema] = {
    "plan": listed(defined("plan")),
    "explain": record(**EXPLANATION),
    "doctor": record(
        version=VERSION_KEY,
        checks=listed(record(name=TEXT, value=TEXT, verdict=one_of(Verdict), remedy=nullable(TEXT))),
    ),
    "show": defined("machine"),
    "strategies": record(
        version=VERSION_KEY,
        strategies=listed(record(**PLUGIN, **MODES)),
        policies=listed(record(**PLUGIN)),
        devices=listed(record(**PLUGIN)),
        launchers=listed(record(**PLUGIN, **MODES, distance=nullable({"type": "integer"}))),
    ),
    "machines": record(
        version=VERSION_KEY,
        machines=listed(
            record(
                name=TEXT,
                nodes=defined("nodes"),
                cpus=defined("cpus"),
                gpu_nodes=listed(nullable(COUNT)),
                source=TEXT,
            )
        ),
    ),
    "bench": {
        "anyOf": [
            record(
                version=VERSION_KEY,
                nodes=listed(COUNT),
                grids=listed(
                    record(
                        quantity={"enum": [quantity.key for quantity in QUANTITIES]},
                        title=TEXT,
                        unit=TEXT,
                        higher_is_better=FLAG,
                        rows=listed(
                            record(
                                place=TEXT,
                                pci_bus_id=nullable(defined("pci_bus_id")),
                                node=nullable(COUNT),
                                values=by(r"^\d+$", listed(NUMBER)),
                            )
                        ),
                    )
                ),
                other_busy_cpus=LOAD,
                notes=listed(TEXT),
                verdict=TEXT,
            ),
            record(
                version=VERSION_KEY,
                higher_is_better=FLAG,
                runs=listed(
                    record(
                        name={"enum": ["unbound", "bound", "elsewhere"]},
                        where=TEXT,
                        values=listed(NUMBER),
                        ratio=record(median=NUMBER, least=NUMBER, greatest=NUMBER),
                    )
                ),
                other_busy_cpus=LOAD,
                verdict=TEXT,
            ),
        ]
    },
    "demo": record(
        version=VERSION_KEY,
        stand_ins=FLAG,
        workers=listed(
            {
                "anyOf": [
                    record(worker=TEXT, started_by=TEXT, **REPORT),
                    record(worker=TEXT, started_by=TEXT, error=TEXT),
                ]
            }
        ),
        notes=listed(TEXT),
    ),
    "ps": record(version=VERSION_KEY, policy=TEXT, processes=listed(defined("process")), notes=listed(TEXT)),
    "attach": listed(ATTACHED),
    "ray-survey": listed(
        record(
            version=VERSION_KEY,
            node=TEXT,
            host=TEXT,
            machine=nullable(defined("machine")),
            plans=listed(defined("plan")),
            error=TEXT,
        )
    ),
    "ray-audit": listed(ACTOR),
}


def _references(value: object) -> Iterator[str]:
    """Yield the names of the definitions that a schema refers to, with those that these refer to."""
    if isinstance(value, dict):
        if "$ref" in value:
            name = value["$ref"].removeprefix("#/$defs/")
            yield name
            yield from _references(DEFINITIONS[name])
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def documents() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each file."""
    for name, schema in SCHEMAS.items():
        used = set(_references(schema))
        document = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:numa-affinity:json:{VERSION}:{name}",
            "title": f"affinity {name.replace('-', ' ')} --json",
            **schema,
            "$defs": {key: value for key, value in DEFINITIONS.items() if key in used},
        }
        yield f"{name}.json", json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    for name, text in documents():
        (HERE / name).write_text(text, encoding="utf-8")
        print(HERE / name)
