"""An actor that binds nothing and is to be bound all the same, in a module that Ray's workers import."""

from __future__ import annotations

import os
from typing import Any

import ray
from worker import anonymous_bytes, masks, nodes_of, policy, touch

AT_IMPORT = {"mask": sorted(os.sched_getaffinity(0)), "policy": policy()}


class Unmodified:
    def __init__(self) -> None:
        self.life: dict[str, Any] = {
            "gpus": sorted(ray.get_runtime_context().get_accelerator_ids()["GPU"]),
            "import": AT_IMPORT,
            "masks": masks(),
            "pages": nodes_of([touch(16)]),
            "own": anonymous_bytes(),
        }

    def lived(self) -> dict[str, Any]:
        return self.life
