"""`Degradation`: a part of a placement that is not in force, with the error and its remedy."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

import attrs

from affinity.errors import BindError, ForeignProcError
from affinity.kernel.refusals import is_of_bind, is_of_masks, is_of_pages


@attrs.frozen
class Degradation:
    """A part of a placement that is not in force.

    action: what was tried. errno: its name, "" for none. error: the message. remedy: what to do, "" if unknown.
    """

    action: str
    errno: str
    error: str
    remedy: str

    def __str__(self) -> str:
        code = f" [{self.errno}]" if self.errno else ""
        return f"{self.action}: {self.error}{code}" + (f"; {self.remedy}" if self.remedy else "")

    @classmethod
    def of(cls, action: str, error: OSError | BindError) -> Degradation:
        """Return the degradation for an error. The errno of a BindError is that of the `strerror` that it ends with.

        An error of a plugin's own, as of a device file, has the plugin's words alone.
        """
        if not isinstance(error, OSError):
            number = next((n for n in _REMEDIES if str(error).endswith(os.strerror(n))), 0)
            return cls(action, errno.errorcode.get(number, ""), str(error), _REMEDIES.get(number, ""))
        name = errno.errorcode.get(error.errno or 0, "")
        call = f" in {error.filename}" if error.filename else ""
        return cls(action, name, f"{error.strerror or error}{call}", _remedy(error))

    @classmethod
    def of_outcome(cls, strategy: str, error: OSError) -> Degradation:
        """Return the degradation for an error that did not fail the bind (`Outcome.errors`)."""
        if is_of_masks(error):
            return cls.of("bind every thread", error)
        return cls.of("move pages touched before" if is_of_pages(error) else f"strategy {strategy}", error)


def messages(degradations: Iterable[Degradation]) -> list[str]:
    """Return a text for each error, with everything that was tried: an error that each attempt met is reported once."""
    tried: dict[Degradation, dict[str, list[str]]] = {}
    for found in degradations:
        strategy, _, what = found.action.rpartition(": ")
        actions = tried.setdefault(attrs.evolve(found, action=""), {})
        actions.setdefault(what, []).append(strategy)
    return [
        str(attrs.evolve(error, action="; ".join(_joined(names, what) for what, names in actions.items())))
        for error, actions in tried.items()
    ]


def _joined(strategies: Iterable[str], what: str) -> str:
    names = " and ".join(dict.fromkeys(filter(None, strategies)))
    return f"{names}: {what}" if names else what


def _remedy(error: OSError) -> str:
    if isinstance(error, ForeignProcError):
        return "mount the /proc of this PID namespace: unshare --mount-proc"
    return _REMEDIES.get(error.errno or 0, "") if is_of_bind(error) else ""


_REMEDIES = {
    errno.EPERM: "allow the call: in a container --cap-add SYS_NICE or a seccomp profile that has it",
    errno.EACCES: "allow it to this user, or run as root",
    errno.ENOSYS: "this kernel or its seccomp profile has no such call: run on a kernel with CONFIG_NUMA",
    errno.EINVAL: "the CPUs or nodes are outside the cpuset: compare `affinity show` with the placement",
}
