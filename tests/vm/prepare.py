"""Installs what the emulated machines need; states what is missing if it cannot.

Run as ``python tests/vm prepare``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable

#: The programs used, and the Debian packages they come in: the emulator of an architecture, and the others.
EMULATORS = {"x86_64": ("qemu-system-x86_64", "qemu-system-x86"), "aarch64": ("qemu-system-aarch64", "qemu-system-arm")}
PROGRAMS = {
    "busybox": "busybox-static",
    "numactl": "numactl",
    "apt-get": "apt",
    "dpkg": "dpkg",
}


class Missing(Exception):
    """Something the emulated machines need is not there."""


def missing_packages(architectures: Iterable[str]) -> list[str]:
    programs = {**dict(EMULATORS[name] for name in architectures), **PROGRAMS}
    return [package for program, package in programs.items() if shutil.which(program) is None]


def check(*architectures: str) -> None:
    missing = missing_packages(architectures)
    if missing:
        raise Missing(f"not installed: {' '.join(missing)}; run python tests/vm prepare as root, on Debian")


def install(*architectures: str) -> None:
    missing = missing_packages(architectures)
    if shutil.which("apt-get") is None or (missing and os.geteuid() != 0):
        check(*architectures)
    if os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-q"], check=True)
    if missing:
        subprocess.run(
            ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing],
            check=True,
        )
    check(*architectures)


def main() -> int:
    from .kernel import boot_files
    from .machines import chosen

    machines = chosen()
    try:
        install(*{machine.architecture for machine in machines})
        for directory in sorted({boot_files(machine).kernel.parent for machine in machines}):
            print(directory)
    except (Missing, subprocess.CalledProcessError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    return 0
