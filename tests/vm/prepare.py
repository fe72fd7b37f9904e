"""Installs what the emulated machines need; states what is missing if it cannot.

Run as ``python tests/vm prepare``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

#: The programs used, and the Debian packages they come in.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "numactl": "numactl",
    "apt-get": "apt",
    "dpkg": "dpkg",
}


class Missing(Exception):
    """Something the emulated machines need is not there."""


def missing_packages() -> list[str]:
    return [package for program, package in PROGRAMS.items() if shutil.which(program) is None]


def check() -> None:
    missing = missing_packages()
    if missing:
        raise Missing(f"not installed: {' '.join(missing)}; run python tests/vm prepare as root, on Debian")


def install() -> None:
    missing = missing_packages()
    if shutil.which("apt-get") is None or (missing and os.geteuid() != 0):
        check()
    if os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-q"], check=True)
    if missing:
        subprocess.run(
            ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing],
            check=True,
        )
    check()


def main() -> int:
    from .kernel import boot_files
    from .machines import MACHINES

    try:
        install()
        for directory in sorted({boot_files(machine).kernel.parent for machine in MACHINES.values()}):
            print(directory)
    except (Missing, subprocess.CalledProcessError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    return 0
