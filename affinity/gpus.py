"""Which GPU is it: the inventory of a host, and the one grammar that refers to its members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from affinity.errors import DeviceError, PluginError, SettingsError, UnknownGpu
from affinity.host.cpuset import NodeSet
from affinity.host.devices import DeviceProvider, Evidence, Gpu, Source
from affinity.host.host import Host
from affinity.host.locate import locate
from affinity.host.topology import PciAddress
from affinity.registry import Registry
from affinity.settings import Settings


@attrs.frozen
class Inventory:
    """The GPUs of a host.

    devices: all of them, in PCI order. visible: those CUDA (or its like) shows this process, in its order.
    notes: what an operator should know (a provider that failed, a warning).
    """

    devices: tuple[Gpu, ...]
    visible: tuple[Gpu, ...]
    notes: tuple[str, ...] = ()


def inventory(
    host: Host, settings: Settings, environ: Mapping[str, str], providers: Registry[DeviceProvider]
) -> Inventory:
    """Ask the providers, in order; locate every GPU. Stand-ins where AFFINITY_NODES is all that is known."""
    notes: list[str] = []
    devices: tuple[Gpu, ...] = ()
    for name in settings.devices or ("nvml", "pci"):
        try:
            provider = providers.get(name)
            answer = provider.supports(host)
            if not answer.ok:
                if settings.devices:
                    notes.append(f"{name}: {answer.reason}")
                continue
            devices = provider.devices(host)
        except (DeviceError, PluginError) as failed:
            notes.append(f"{name}: {failed}")
            continue
        if devices:
            break
    devices = _with_override(devices, settings)
    located = tuple(locate(gpu, host.topology) for gpu in devices)
    return Inventory(located, located, tuple(notes))


def _with_override(devices: tuple[Gpu, ...], settings: Settings) -> tuple[Gpu, ...]:
    if settings.nodes is None:
        return devices
    if not devices:
        devices = tuple(stand_in(i) for i in range(len(settings.nodes)))
    if len(settings.nodes) != len(devices):
        raise SettingsError(
            f"AFFINITY_NODES names {len(settings.nodes)} nodes, {len(devices)} GPUs are here: "
            "give one node for each GPU, in PCI order"
        )
    return tuple(
        attrs.evolve(gpu, evidence=(Evidence(Source.OPERATOR, nodes=NodeSet([node])), *gpu.evidence))
        for gpu, node in zip(devices, settings.nodes, strict=True)
    )


def stand_in(index: int, node: int | None = None) -> Gpu:
    """In place of a GPU, on a machine without one."""
    return Gpu(None, "none", label=f"stand-in {index}", node=node, why="a stand-in" if node is not None else "")


def resolve(reference: str | int, among: Inventory) -> tuple[Gpu, ...]:
    """The GPUs a reference names. Raises UnknownGpu, saying what is there."""
    text = str(reference).strip()
    if text == "all":
        return among.visible
    if "," in text:
        return tuple(dict.fromkeys(gpu for part in text.split(",") for gpu in resolve(part, among)))
    address = PciAddress.try_parse(text)
    if address is not None:
        return _one(text, [g for g in among.devices if g.pci == address], among)
    if text.startswith("phys:"):
        return _at(text, text[5:], among.devices, among)
    if text.isdigit():
        return _at(text, text, among.visible, among)
    return _one(text, [g for g in among.devices if g.uuid and g.uuid.lower().startswith(text.lower())], among)


def resolve_physical(ids: Sequence[str], among: Inventory) -> tuple[Gpu, ...]:
    """The GPUs of a scheduler's ids, which count in the node's own numbering, whatever is visible here."""
    return tuple(dict.fromkeys(gpu for i in ids for gpu in resolve(f"phys:{i}" if i.isdigit() else i, among)))


def _at(text: str, ordinal: str, order: tuple[Gpu, ...], among: Inventory) -> tuple[Gpu, ...]:
    found = [order[int(ordinal)]] if ordinal.isdigit() and len(ordinal) < 6 and int(ordinal) < len(order) else []
    return _one(text, found, among)


def _one(text: str, found: list[Gpu], among: Inventory) -> tuple[Gpu, ...]:
    if len(found) == 1:
        return (found[0],)
    here = ", ".join(str(g) for g in among.devices) or "none"
    if found:
        raise UnknownGpu(f"GPU {text!r} is ambiguous: it names {', '.join(map(str, found))}")
    raise UnknownGpu(
        f"GPU {text!r} is not here; GPUs: {here} ({len(among.visible)} visible). "
        "Expected a visible ordinal (0), a UUID prefix (GPU-…), a PCI address, phys:N or all"
    )
