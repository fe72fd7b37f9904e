"""Boots a machine, runs a command in it and shows how that went.

Run as ``python tests/vm MACHINE [-- COMMAND...]``; without a command, a
shell on the machine's console. The guest sees the host's files with a layer in
memory to write to, and a directory shared with the host at /results.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import userland
from .kernel import Boot, boot_files
from .machines import MACHINES, ROOT_BUS_SLOT, Machine, bridge_bus
from .prepare import Missing

#: Seconds until a machine is dropped, and until one whose command did not start is.
TIME_LIMIT = 1800.0
START_LIMIT = 180.0

KERNEL_ARGS = (
    "quiet",
    "loglevel=4",
    "mitigations=off",
    "nokaslr",
    "random.trust_cpu=on",
    "panic=-1",
)
X86_ARGS = (
    "console=ttyS0",
    # The emulated time stamp counter has been seen to run ahead; the HPET keeps
    # the host's time. On a busy host, the check of the timer stops too early.
    "tsc=unstable",
    "clocksource=hpet",
    "no_timer_check",
)
ARM_ARGS = ("console=ttyAMA0",)

HOST_ROOT = Path("/")

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
}


#: Shows a guest which machine it is. The package minds every variable that
#: starts with its own name.
MACHINE_VARIABLE = "VM_MACHINE"


def python(machine: Machine) -> str:
    """The guest's interpreter: where the guest's processors are the host's, the one that runs here."""
    return sys.executable if machine.architecture == "x86_64" else f"{userland.ENVIRONMENT}/bin/python"


def environment_of(machine: Machine) -> dict[str, str]:
    programs = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    path = f"{Path(python(machine)).parent}:{programs}"
    return {**ENVIRONMENT, "PATH": path, MACHINE_VARIABLE: machine.name}


class BootError(Exception):
    """The machine did not come to the command's end; ``started`` shows whether it came to its begin."""

    def __init__(self, reported: str, *, started: bool) -> None:
        super().__init__(reported)
        self.started = started


@dataclass(frozen=True)
class Result:
    """What came of a command: its exit status, its output and its files."""

    status: int
    output: str
    console: str
    results: Path
    seconds: float


def run(
    machine: Machine,
    command: Sequence[str],
    results: Path,
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    time_limit: float = TIME_LIMIT,
    stop: threading.Event | None = None,
    follow: bool = False,
) -> Result:
    """Run a command in a machine; with ``follow``, print its output meanwhile.

    Setting ``stop`` ends the machine before its time.

    The files that the guest wrote in /results are in ``results`` afterwards.
    """
    directory = directory or Path.cwd()
    variables = {**environment_of(machine), **(environment or {})}
    output, console, status = results / "output", results / "console", results / "status"
    output.write_bytes(b"")
    for path in (status, results / "started"):
        path.unlink(missing_ok=True)
    boot = boot_files(machine)  # the first time it is fetched, which is not the machine's time
    leave(results, guest_script(command, directory, variables), boot)
    start = time.monotonic()
    qemu = [*arguments(machine, boot, results), "-serial", f"file:{console}"]
    with subprocess.Popen(qemu, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        shown = 0
        try:
            while process.poll() is None:
                if follow:
                    shown = show(output, shown)
                time.sleep(0.1)
                seconds = time.monotonic() - start
                started = (results / "started").exists()
                if seconds > (time_limit if started else min(START_LIMIT, time_limit)):
                    break
                if stop is not None and stop.is_set():
                    break
        finally:
            ended = process.poll() is not None
            process.kill()
        if follow:
            show(output, shown)
        printed = process.stdout.read().decode() if process.stdout else ""
    seconds = time.monotonic() - start
    logs = {
        "QEMU": printed,
        "console": console.read_text(errors="replace") if console.exists() else "",
        "output": output.read_text(errors="replace"),
    }
    if not status.exists() or not status.read_text().strip():
        how = f"ended early, QEMU's exit status {process.returncode}," if ended else "was dropped"
        begun = (results / "started").exists()
        raise BootError(f"machine {machine.name} {how} after {seconds:.0f} s\n{tails(logs)}", started=begun)
    return Result(int(status.read_text()), logs["output"], logs["console"], results, seconds)


def show(path: Path, start: int) -> int:
    """Print what a file has from a place on, and return where it ends."""
    with path.open("rb") as stream:
        stream.seek(start)
        text = stream.read()
    sys.stdout.buffer.write(text)
    sys.stdout.flush()
    return start + len(text)


def tails(logs: Mapping[str, str], lines: int = 40) -> str:
    return "\n".join(
        f"--- {name}, last lines ---\n" + "\n".join(text.splitlines()[-lines:])
        for name, text in logs.items()
        if text.strip()
    )


def guest_script(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> str:
    assignments = shlex.join(f"{name}={value}" for name, value in environment.items())
    return f"cd {shlex.quote(str(directory))} || exit 125\nexec env -i {assignments} {shlex.join(command)}\n"


def leave(results: Path, script: str, boot: Boot) -> None:
    """Leave the guest what to run and, where its root directory is not the host's, what of the host's to show."""
    (results / "command").write_text(script)
    if boot.root != HOST_ROOT:
        shown = userland.mounts(boot.root, Path(__file__).parents[2])
        (results / "mounts").write_text("".join(f"{source} {target}\n" for source, target in shown))


def arguments(machine: Machine, boot: Boot, results: Path, *, shell: bool = False) -> list[str]:
    """QEMU's command line."""
    options = {
        "name": machine.name,
        "cgroup": machine.cgroup,
        "nodes": machine.numa,
        "fresh": ",".join(fresh_directories(boot)),
        "shell": int(shell),
    }
    x86 = machine.architecture == "x86_64"
    kernel_args = [
        *(X86_ARGS if x86 else ARM_ARGS),
        *KERNEL_ARGS,
        *([] if machine.numa == "on" else ["numa=off"]),
        *possible_cpus(machine),
        *machine.kernel_args,
        *(f"vm.{name}={value}" for name, value in options.items()),
    ]
    return [
        f"qemu-system-{machine.architecture}",
        *("-machine", "q35" if x86 else "virt,gic-version=3"),
        *(("-bios", str(boot.firmware)) if boot.firmware else ()),
        *("-accel", "tcg,thread=multi"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(boot.kernel), "-initrd", str(boot.initramfs)),
        *("-append", " ".join(kernel_args)),
        *share("root", boot.root, "readonly=on,multidevs=remap"),
        *share("host", HOST_ROOT, "readonly=on,multidevs=remap"),
        *share("results", results, "multidevs=remap"),
        *processors(machine),
        *numa(machine),
        *gpus(machine),
    ]


def possible_cpus(machine: Machine) -> list[str]:
    """The number of processors there may ever be, where some slots are empty.

    It keeps the nodes of empty slots offline. It has to be more than 8, or the
    kernel addresses interrupts in a way in which QEMU finds no processor that
    comes after an empty slot.
    """
    if machine.online_nodes == machine.nodes:
        return []
    return [f"possible_cpus={max(9, len(machine.filled_slots))}"]


def fresh_directories(boot: Boot) -> list[str]:
    """The temporary directories to hide: those without anything that runs."""
    used = [Path(path).resolve() for path in (sys.prefix, sys.base_prefix, __file__) if boot.root == HOST_ROOT]
    return [directory for directory in ("/tmp", "/var/tmp") if not any(path.is_relative_to(directory) for path in used)]


def share(tag: str, path: Path, options: str) -> list[str]:
    quoted = str(path).replace(",", ",,")
    return [
        "-virtfs",
        f"local,id={tag},path={quoted},mount_tag={tag},security_model=none,{options}",
    ]


#: By architecture and page size.
MODELS = {
    # Two threads a core are an Intel matter to QEMU. The fifth level of page tables and the protections of the
    # kernel from its user's pages cost a tenth of the time.
    ("x86_64", 4096): "max,vendor=GenuineIntel,la57=off,smap=off,smep=off",
    ("aarch64", 4096): "cortex-a72",
    # It has no pages of 16 KiB. Real pointer authentication costs half of the time.
    ("aarch64", 16384): "max,pauth-impdef=on",
}


def processors(machine: Machine) -> list[str]:
    """The processors; those in slots after an empty one are plugged in one by one."""
    slots = [slot for node in machine.nodes for slot in node.slots]
    filled = machine.filled_slots
    given = len(filled) if filled == tuple(range(len(filled))) else 1
    args = [
        "-cpu",
        MODELS[machine.architecture, machine.page_size],
        "-smp",
        f"{given},maxcpus={len(slots)},sockets={machine.sockets},cores={machine.cores},threads={machine.threads}",
    ]
    for slot in filled[given:]:
        core, thread = divmod(slot, machine.threads)
        socket, core = divmod(core, machine.cores)
        args += [
            "-device",
            f"max-x86_64-cpu,socket-id={socket},die-id=0,core-id={core},thread-id={thread}",
        ]
    return args


def numa(machine: Machine) -> list[str]:
    args = ["-m", f"{machine.memory}M"]
    for node in machine.nodes:
        option = f"node,nodeid={node.number}"
        option += "".join(f",cpus={slot}" for slot in node.slots)
        if node.memory:
            args += [
                "-object",
                f"memory-backend-ram,id=memory{node.number},size={node.memory}M",
            ]
            option += f",memdev=memory{node.number}"
        args += ["-numa", option]
    for here in machine.nodes:
        for there in machine.nodes:
            distance = machine.distance(here, there)
            args += [
                "-numa",
                f"dist,src={here.number},dst={there.number},val={distance}",
            ]
    return args


def gpus(machine: Machine) -> list[str]:
    """The GPUs; see Machine.visible_gpus for where they are."""
    args = []
    bridged = machine.gpus if machine.firmware else ()
    for index, node in enumerate(machine.gpu_nodes if machine.firmware else ()):
        bridge = f"bridge{node}"
        args += [
            "-device",
            f"pxb-pcie,id={bridge},bus=pcie.0,bus_nr={bridge_bus(index)},numa_node={node}",
        ]
        for port in range(bridged.count(node)):
            name = f"{bridge}port{port}"
            args += [
                *("-device", f"pcie-root-port,id={name},bus={bridge},addr={port},"),
                *("-device", f"ati-vga,bus={name},romfile="),
            ]
            args[-3] += f"chassis={node + 1},slot={port}"
    for port in range(len(machine.gpus) - sum(node is not None for node in bridged)):
        args += ["-device", f"ati-vga,bus=pcie.0,addr={ROOT_BUS_SLOT + port:#x},romfile="]
    return args


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, usage="%(prog)s MACHINE [options] [-- COMMAND...]")
    parser.add_argument("machine", choices=sorted(MACHINES))
    parser.add_argument("--results", type=Path, help="directory to share at /results")
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT)
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    command = words[end + 1 :]
    options = parser.parse_args(words[:end])
    machine = MACHINES[options.machine]
    with tempfile.TemporaryDirectory() as scratch:
        results = options.results or Path(scratch)
        results.mkdir(parents=True, exist_ok=True)
        try:
            if not command:
                return shell(machine, results)
            result = run(
                machine,
                command,
                results,
                time_limit=options.time_limit,
                follow=True,
            )
        except (BootError, Missing) as error:
            print(f"boot: {error}", file=sys.stderr)
            return 125
    print(f"[{machine.name}: {result.seconds:.1f} s]", file=sys.stderr)
    return result.status


def shell(machine: Machine, results: Path) -> int:
    terminal = {"TERM": os.environ.get("TERM", "dumb")}
    variables = {**environment_of(machine), **terminal}
    boot = boot_files(machine)
    leave(results, guest_script(["bash", "--norc", "-i"], Path.cwd(), variables), boot)
    qemu = arguments(machine, boot, results, shell=True)
    return subprocess.run([*qemu, "-serial", "mon:stdio"], check=False).returncode
