"""Which GPU is meant: the one grammar that refers to the members of an inventory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from affinity.devices.ordinals import PhysicalOrdinal, VisibleOrdinal
from affinity.errors import UnknownGpuError
from affinity.topology.model import PciAddress

if TYPE_CHECKING:
    from affinity.devices.gpu import Gpu
    from affinity.devices.inventory import Inventory


def resolve(reference: str | int, among: Inventory) -> tuple[Gpu, ...]:
    """Return the GPUs that a reference names. Raises UnknownGpuError, listing the GPUs that are there.

    `0`: an ordinal as the runtime counts (`cuda:0`); `GPU-8f2c…`, `MIG-…`: a UUID or an unambiguous prefix, the
    latter for the GPU it is a part of; `0000:1b:00.0`: a PCI address, in any case, without its domain or with
    NVML's of eight digits; `phys:3`: all GPUs of the machine in PCI order; `driver:3`, `driver:GPU-8f2c…`: as an
    entry of CUDA_VISIBLE_DEVICES (or its like) counts, whatever the variable holds here; `all`: those visible;
    several separated by commas.
    """
    text = str(reference).strip()
    if text == "all":
        return among.visible
    if "," in text:
        return resolve_all(text.split(","), among)
    address = PciAddress.try_parse(text)
    if address is not None:
        return _one(text, [g for g in among.machine if g.pci == address], among)
    if text.startswith("phys:"):
        physical = PhysicalOrdinal.parse(text[5:])
        entry = among.physical.at(physical) if physical is not None else None
        return _one(text, [entry.gpu] if entry is not None else [], among)
    if text.startswith("driver:"):
        entry = among.driver_order.lookup(text[7:])
        return _one(text, [among.gpu_of(entry)] if entry is not None else [], among)
    visible = VisibleOrdinal.parse(text)
    if visible is not None:
        entry = among.visible_order.at(visible)
        return _one(text, [among.gpu_of(entry)] if entry is not None else [], among)
    return _by_uuid(text, among)


def resolve_all(references: Iterable[str | int], among: Inventory) -> tuple[Gpu, ...]:
    """Return the GPUs that several references name, each once. Raises as `resolve`."""
    return tuple(dict.fromkeys(gpu for reference in references for gpu in resolve(reference, among)))


def _by_uuid(text: str, among: Inventory) -> tuple[Gpu, ...]:
    wanted = text.lower()
    if wanted.startswith("mig-gpu-"):
        wanted = wanted[4:].partition("/")[0]
    if not wanted.startswith(("gpu-", "mig-")):
        return _one(text, [], among)
    return _one(
        text,
        [g for g in among.devices if any(u.lower().startswith(wanted) for u in (g.uuid or "", *g.mig_uuids))],
        among,
    )


def _one(text: str, found: list[Gpu], among: Inventory) -> tuple[Gpu, ...]:
    if len(found) == 1:
        return (found[0],)
    if found:
        raise UnknownGpuError(f"GPU {text!r} is ambiguous: it names {', '.join(map(str, found))}; give more of it")
    if not among.devices:
        raise UnknownGpuError(
            f"GPU {text!r} is not here; GPUs: none (0 visible). Expected a node instead (node=N, --node N), or the "
            "node of each placeholder GPU in AFFINITY_NODES, e.g. AFFINITY_NODES=0"
        )
    raise UnknownGpuError(
        f"GPU {text!r} is not here; GPUs: {', '.join(map(str, among.devices))} ({len(among.visible)} visible). "
        "Expected a visible ordinal (0), a UUID or prefix (GPU-…, MIG-…), a PCI address, phys:N, driver:N or all"
    )
