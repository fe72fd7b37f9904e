"""CPU time in seconds: of the whole machine, and of this process's children."""

from __future__ import annotations

import os
import resource


def busy_seconds() -> float:
    """Return the time since boot, of all CPUs together, in which they were not idle: proc_stat(5)."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def seconds_of_children() -> float:
    """Return the time of children that have ended and were waited for, and of their own such: getrusage(2)."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
