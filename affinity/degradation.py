"""`Degradation`: a part of a placement that is not in force, with the error and its remedy."""

from __future__ import annotations

import errno
import os

import attrs

from affinity.errors import BindError


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
        """Return the degradation for an error. The errno of a BindError is that of the `strerror` in its message."""
        if not isinstance(error, OSError):
            number = next((n for n in _REMEDIES if os.strerror(n) in str(error)), 0)
            return cls(action, errno.errorcode.get(number, ""), str(error), _REMEDIES.get(number, ""))
        name = errno.errorcode.get(error.errno or 0, "")
        call = f" in {error.filename}" if error.filename else ""
        return cls(action, name, f"{error.strerror or error}{call}", _REMEDIES.get(error.errno or 0, ""))


_REMEDIES = {
    errno.EPERM: "allow the call: in a container --cap-add SYS_NICE or a seccomp profile that has it",
    errno.ENOSYS: "this kernel or its seccomp profile has no such call: run on a kernel with CONFIG_NUMA",
    errno.EOPNOTSUPP: "mount the /proc of this PID namespace: unshare --mount-proc",
    errno.EINVAL: "the CPUs or nodes are outside the cpuset: compare `affinity show` with the placement",
}
