"""Whether the system calls of a bind are allowed, and what this process has already.

No call here changes the process: it is given the mask and the memory policy that it has, and no page to move. Each is
first made in a fork, because a seccomp filter may end the process that makes it (systemd's SystemCallFilter does).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

from affinity.degradation import Degradation
from affinity.doctor.check import Check, Subject, Verdict
from affinity.handoff import set_by_affinity
from affinity.kernel.mempolicy import MemoryMode


def check_calls(subject: Subject) -> Iterator[Check]:
    """Yield a check for each system call of a bind; none for another machine."""
    if subject.host.is_foreign:
        return
    kernel = subject.host.kernel

    def probe(name: str, call: Callable[[], object], verdict: Verdict, remedy: str = "") -> Check:
        try:
            if is_killed(call, subject):
                return Check(name, KILLED, Verdict.BLOCKED, ALLOW)
            call()
        except OSError as refused:
            found = Degradation.of(name, refused)
            value = f"{refused.strerror} [{found.errno}]{_filtered(subject)}"
            return Check(name, value, verdict, remedy or found.remedy or f"see {name}(2)")
        return Check(name, "allowed")

    yield probe("threads", kernel.threads, Verdict.BLOCKED)
    yield probe("sched_setaffinity", lambda: kernel.set_affinity(0, kernel.get_affinity(0)), Verdict.BLOCKED)
    yield probe("set_mempolicy", lambda: kernel.set_mempolicy(kernel.get_mempolicy()), Verdict.BLOCKED)
    # Only pages touched before the bind are moved, so that a process that starts bound never needs the call.
    yield probe("move_pages", kernel.check_page_moves, Verdict.NOTE, "start the worker bound (`affinity run`)")


def check_policy(subject: Subject) -> Iterator[Check]:
    """Yield what memory policy another program has given this process: with one, it counts as bound from outside."""
    if subject.host.is_foreign:
        return
    kernel = subject.host.kernel
    if is_killed(kernel.get_mempolicy, subject):
        return  # `set_mempolicy` has it, as below
    try:
        policy = kernel.get_mempolicy()
    except OSError:
        return  # `set_mempolicy` has it: the policy is read before it is set
    if policy.mode is MemoryMode.DEFAULT or set_by_affinity(policy, kernel):
        yield Check("memory policy", str(policy))
    else:
        yield Check(
            "memory policy",
            f"{policy}, set from outside: it is left as it is",
            Verdict.WARN,
            "start the worker without the program that set it (numactl, an engine's own binding)",
        )


KILLED = "a seccomp filter kills the process that makes the call (SIGSYS)"
#: Source: systemd.exec(5), SystemCallFilter=. In @resources are all the calls of a bind.
ALLOW = "allow the call in the filter; in a systemd unit: SystemCallFilter=@resources"


def is_killed(call: Callable[[], object], subject: Subject) -> bool:
    """Return whether a fork that makes the call is killed for it. An error of the call is the caller's to find."""
    if not subject.host.kernel.is_this_process:  # a simulated one
        return False
    child = os.fork()
    if not child:
        try:
            with suppress(BaseException):
                call()
        finally:
            os._exit(0)
    try:
        _, status = os.waitpid(child, 0)
    except ChildProcessError:  # SIGCHLD is ignored: how it ended is not known
        return False
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS


def _filtered(subject: Subject) -> str:
    """Return a remark if this process is under a seccomp filter. Source: proc(5), `Seccomp`."""
    for line in (subject.read("proc/self/status") or "").splitlines():
        key, _, mode = line.partition(":")
        if key == "Seccomp" and mode.strip() == "2":
            return ", under a seccomp filter"
    return ""
