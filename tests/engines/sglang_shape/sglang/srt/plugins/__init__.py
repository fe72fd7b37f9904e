"""As `srt/plugins/__init__.py`: an exception of a plugin is logged, and the engine goes on."""

import logging
import os
from importlib.metadata import entry_points

from sglang.srt.plugins.hook_registry import HookRegistry

logger = logging.getLogger(__name__)
_plugins_loaded = False


def load_plugins():
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    allowed = os.environ.get("SGLANG_PLUGINS")
    for ep in entry_points(group="sglang.srt.plugins"):
        if allowed and ep.name not in allowed.split(","):
            continue
        try:
            ep.load()()
        except Exception:
            logger.exception("Failed to execute general plugin: %s", ep.name)
    HookRegistry.apply_hooks()
