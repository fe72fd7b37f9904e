"""As `platforms`: `ray_device_key` is "GPU" for CUDA, ROCm and XPU, and "" for the CPU."""

import os
from types import SimpleNamespace

current_platform = SimpleNamespace(ray_device_key="" if os.environ.get("VLLM_TARGET_DEVICE") == "cpu" else "GPU")
