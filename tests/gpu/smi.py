"""The GPUs of `nvidia-smi`."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from typing import NamedTuple

_FIELDS = ("index", "uuid", "pci.bus_id", "name", "driver_version")


class Card(NamedTuple):
    """A GPU as `nvidia-smi` lists it. pci_bus_id: as sysfs names it. mig: UUIDs of its MIG devices."""

    index: str
    uuid: str
    pci_bus_id: str
    name: str
    driver: str
    mig: tuple[str, ...]


def _smi(*arguments: str) -> str:
    if shutil.which("nvidia-smi") is None:
        raise RuntimeError("nvidia-smi is not on PATH")
    done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"nvidia-smi ended with status {done.returncode}: {done.stdout.strip()}")
    return done.stdout


def cards() -> list[Card]:
    """Return them in its order. Raise RuntimeError with the reason if there is none."""
    rows = csv.reader(_smi(f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader").splitlines())
    listed = re.split(r"^GPU ", _smi("-L"), flags=re.MULTILINE)[1:]
    found = []
    for (index, uuid, bus, name, driver), text in zip(rows, listed, strict=True):
        domain, _, rest = bus.strip().lower().partition(":")
        mig = tuple(re.findall(r"\(UUID: (MIG-[^)]+)\)", text))
        found.append(Card(index, uuid.strip(), f"{domain[-4:]}:{rest}", name.strip(), driver.strip(), mig))
    if not found:
        raise RuntimeError("nvidia-smi lists no GPU")
    return found
