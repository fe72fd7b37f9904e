"""As `srt/plugins/hook_registry.py`: a hook replaces a function also where a module has imported it by name."""

import enum
import functools
import pkgutil
import sys
from typing import ClassVar


class HookType(enum.Enum):
    AROUND = "around"


class HookRegistry:
    _hooks: ClassVar[dict] = {}
    _patched: ClassVar[set] = set()

    @classmethod
    def register(cls, target, hook, hook_type, *, source=None):
        assert hook_type is HookType.AROUND
        cls._hooks.setdefault(target, []).append(hook)

    @classmethod
    def apply_hooks(cls):
        for target, hooks in sorted(cls._hooks.items()):
            if target in cls._patched:
                continue
            cls._patched.add(target)
            path, _, name = target.rpartition(".")
            original = wrapped = getattr(pkgutil.resolve_name(path), name)
            for hook in hooks:
                wrapped = functools.wraps(wrapped)(functools.partial(hook, wrapped))
            for module in list(sys.modules.values()):
                for key, value in list(getattr(module, "__dict__", {}).items()):
                    if value is original:
                        setattr(module, key, wrapped)
