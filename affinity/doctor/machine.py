"""Settings of the kernel and the state of the machine that weaken a binding, as files show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from affinity.doctor.check import Check, Subject, Verdict


class Setting(NamedTuple):
    """A file whose value may weaken a binding.

    name: of the check. path: below the root. harms: returns whether this value does. effect: of such a value. Sources
    are in `SETTINGS`.
    """

    name: str
    path: str
    harms: Callable[[str], bool]
    effect: str
    verdict: Verdict
    remedy: str


def _is_on(value: str) -> bool:
    return value != "0"


# Sources: Documentation/admin-guide/sysctl/kernel.rst (numa_balancing), sysctl/vm.rst (zone_reclaim_mode,
# overcommit_memory), mm/transhuge.rst, pm/cpufreq.rst,
# Documentation/ABI/testing/sysfs-devices-system-cpu (smt, offline).
SETTINGS = (
    Setting("numa_balancing", "proc/sys/kernel/numa_balancing", _is_on,
            "the kernel moves pages and interrupts threads to sample them", Verdict.WARN,
            "sysctl -w kernel.numa_balancing=0"),
    Setting("zone_reclaim_mode", "proc/sys/vm/zone_reclaim_mode", _is_on,
            "a full node is reclaimed, which stalls, before another one is used", Verdict.WARN,
            "sysctl -w vm.zone_reclaim_mode=0"),
    Setting("overcommit_memory", "proc/sys/vm/overcommit_memory", lambda value: value == "2",
            "large reservations fail with ENOMEM, also beside free memory", Verdict.NOTE,
            "sysctl -w vm.overcommit_memory=0"),
    Setting("transparent huge pages", "sys/kernel/mm/transparent_hugepage/enabled", lambda value: "[never]" in value,
            "base pages take far longer to be counted and moved", Verdict.NOTE,
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
    Setting("SMT", "sys/devices/system/cpu/smt/active", _is_on,
            "two workers on one core share it", Verdict.NOTE,
            "AFFINITY_SMT=one leaves the other hardware threads of each core free"),
    Setting("offline CPUs", "sys/devices/system/cpu/offline", bool,
            "no worker is placed on these", Verdict.NOTE,
            "echo 1 > /sys/devices/system/cpu/cpuN/online"),
    Setting("frequency governor", "sys/devices/system/cpu/cpufreq/policy0/scaling_governor",
            lambda value: value != "performance",
            "cores that wait for a GPU slow down", Verdict.NOTE, "cpupower frequency-set -g performance"),
)  # fmt: skip


#: Characters of a file that are printed, as of other captured files.
_LONGEST = 60


def check_settings(subject: Subject) -> Iterator[Check]:
    """Yield a check for each setting that the machine has."""
    for setting in SETTINGS:
        value = subject.read(setting.path)
        if value is None:
            continue
        if len(value) > _LONGEST or not value.isprintable():  # a captured file may hold anything
            value = ascii(value[:_LONGEST])
        if setting.harms(value):
            yield Check(setting.name, f"{value}: {setting.effect}", setting.verdict, setting.remedy)
        else:
            yield Check(setting.name, value or "none")


#: Of a node's memory: with less free, its pages spill to other nodes under `preferred`.
_LITTLE = 0.05
#: Of the pages that were wanted on a node since boot: a larger share that went elsewhere is worth a look.
_FOREIGN = 0.01


def check_memory(subject: Subject) -> Iterator[Check]:
    """Yield the free memory of each node with GPUs, of all nodes without any, and what share of pages it missed.

    Page cache does not count as free: it is not reclaimed before a page is taken from another node.
    Sources: Documentation/admin-guide/numastat.rst; sysctl/vm.rst, zone_reclaim_mode.
    """
    topology = subject.host.topology
    if len(topology.memory_nodes) < 2:
        return
    gpus = subject.observation.launch.gpu_nodes & topology.memory_nodes
    for node in gpus or topology.memory_nodes:
        here = f"sys/devices/system/node/node{node}"
        total, free = (_number(subject.read(f"{here}/meminfo"), key) for key in ("MemTotal:", "MemFree:"))
        wanted, foreign = (_number(subject.read(f"{here}/numastat"), key) for key in ("numa_hit", "numa_foreign"))
        if not total or free is None:
            continue
        name, value = f"memory of node {node}", f"{free / 2**20:.1f} of {total / 2**20:.1f} GiB free"
        missed = foreign / (wanted + foreign) if wanted and foreign else 0.0
        if free < _LITTLE * total:
            remedy = "AFFINITY_MEMORY=bind takes the node's page cache instead of another node's memory"
            yield Check(name, f"{value}: under `preferred` new pages go to other nodes", Verdict.WARN, remedy)
        elif missed > _FOREIGN:
            value = f"{value}; {missed:.0%} of the pages wanted on it since boot are elsewhere (numa_foreign)"
            yield Check(name, value, Verdict.NOTE, "see if numa_foreign rises while a worker loads (`numastat`)")
        else:
            yield Check(name, value)


def check_mounts(subject: Subject) -> Iterator[Check]:
    """Yield the mount options that keep an engine's helpers from running, or other processes from being seen."""
    for line in (subject.read("proc/mounts") or "").splitlines():
        match [field.strip("/") for field in line.split()[1:4]]:
            case ["tmp", _, options] if "noexec" in options.split(","):
                value = "noexec: an engine's own start through a script there fails"
                yield Check("/tmp", value, Verdict.NOTE, "mount -o remount,exec /tmp")
            case ["proc", "proc", options] if (hidden := _hidden(options)) not in ("", "0", "off"):
                value = f"hidepid={hidden[:20]}: processes of other users are not shown"
                yield Check("processes", value, Verdict.NOTE, "mount -o remount,hidepid=0 /proc, or run it as root")


def _hidden(options: str) -> str:
    """Return the value of the option `hidepid`, "" without it. Source: proc(5), mount options."""
    return next((o.partition("=")[2] for o in options.split(",") if o.startswith("hidepid=")), "")


def _number(text: str | None, key: str) -> int | None:
    """Return the number after a word, None without one."""
    following = (text or "").partition(key)[2].split(None, 1)[:1]
    return int(following[0]) if following and following[0].isdecimal() else None
