"""The order in which a vendor's runtime shows GPUs to this process: what its ordinals mean.

There are four numberings of the same GPUs, and every engine has once taken one for another. Here each has a type of
its own, and an `Order` is reached only by the ordinals it is made for.

    PhysicalOrdinal   all GPUs of the machine in PCI order, also those hidden from this process
    DriverOrdinal     those that the driver shows, before any variable: what an entry of CUDA_VISIBLE_DEVICES means
    RocrOrdinal       AMD's, after ROCR_VISIBLE_DEVICES and before HIP_VISIBLE_DEVICES
    VisibleOrdinal    after every variable: what `cuda:0` means
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, NamedTuple, Self, TypeVar

import attrs

from affinity.devices.gpu import Gpu


@attrs.frozen
class Ordinal:
    """A position from 0 in one numbering; two numberings never compare equal."""

    value: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None where the text is no plain decimal number."""
        return cls(int(text)) if text.isascii() and text.isdigit() and len(text) < 6 else None


class PhysicalOrdinal(Ordinal):
    """Among all GPUs of the machine, in PCI order."""


class DriverOrdinal(Ordinal):
    """As an entry of CUDA_VISIBLE_DEVICES, or its like, counts: among those its runtime finds."""


class RocrOrdinal(Ordinal):
    """As an entry of ROCR_VISIBLE_DEVICES counts; HIP finds what these leave."""


class VisibleOrdinal(Ordinal):
    """Among those the runtime shows this process, in its order."""


@attrs.frozen
class Entry:
    """An entry of a numbering: its GPU, the GPUs that it may be instead (alternatives), and why (ambiguity).

    by_name: it is one of these by a name, and another name gives the same entry. An ordinal has an entry of its own.
    """

    gpu: Gpu
    alternatives: tuple[Gpu, ...] = ()
    ambiguity: str = ""
    by_name: bool = False

    def unambiguous_gpu(self) -> Gpu:
        """Return the GPU; one without an identity if those that it may be are on different nodes.

        A worker that is bound to the wrong GPU's node is worse off than one that is not bound. If they are on one node
        and only a name distinguishes them, the GPU has this node and no identity: workers of several names would
        otherwise all count as the worker of one GPU.
        """
        same_node = all(other.node == self.gpu.node for other in self.alternatives)
        if same_node and not (self.by_name and self.alternatives):
            return self.gpu
        label = f"one of {', '.join(map(str, (self.gpu, *self.alternatives)))}"
        if not same_node:
            return Gpu(None, self.gpu.vendor, label=label, node_reason=f"unknown: {self.ambiguity}")
        return attrs.evolve(self.gpu, pci=None, label=label, uuid=None, mig_uuids=())


O = TypeVar("O", bound=Ordinal)  # noqa: E741


@attrs.frozen
class Numbering(Generic[O]):
    """GPUs in one numbering."""

    kind: type[O]
    entries: tuple[Entry, ...] = ()

    def at(self, ordinal: O) -> Entry | None:
        """Return the entry of this number, None beyond the end. TypeError for an ordinal of another numbering."""
        if type(ordinal) is not self.kind:
            raise TypeError(f"a {type(ordinal).__name__} is no position in an order of {self.kind.__name__}s")
        return self.entries[ordinal.value] if ordinal.value < len(self.entries) else None

    def lookup(self, text: str) -> Entry | None:
        """Return the entry that a text names: an ordinal of this numbering, a UUID or its prefix, a MIG id."""
        ordinal = self.kind.parse(text)
        return self.at(ordinal) if ordinal is not None else self._by_uuid(text)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs in this numbering. An ambiguity does not matter if it only exchanges their entries."""
        here = {s.gpu for s in self.entries}
        return tuple(s.gpu if here.issuperset(s.alternatives) else s.unambiguous_gpu() for s in self.entries)

    def _by_uuid(self, text: str) -> Entry | None:
        wanted = text.lower()
        mig = wanted.startswith("mig-")
        if wanted.startswith("mig-gpu-"):  # MIG-GPU-<uuid>/<GPU instance>/<compute instance>, drivers before R470
            wanted, mig = wanted[4:].partition("/")[0], False
        if not mig and not wanted.startswith("gpu-"):
            return None
        every = [s.gpu for s in self.entries]
        found = [
            g for g in every if any(u.lower().startswith(wanted) for u in (g.mig_uuids if mig else (g.uuid or "",)))
        ]
        if not found:
            found = [g for g in every if g.uuid is None]  # of these the driver has not been asked: one of them, perhaps
            doubt = f"only the driver can resolve {text}; install numa-affinity[nvml], or name its PCI address"
            return Entry(found[0], tuple(found[1:]), doubt, by_name=True) if found else None
        return Entry(found[0]) if len(found) == 1 else None


#: Before any variable, and after all of them.
Numberings = tuple[Numbering[DriverOrdinal], Numbering[VisibleOrdinal]]


def cuda(gpus: tuple[Gpu, ...], environ: Mapping[str, str]) -> Numberings:
    """CUDA's order of these GPUs (in PCI order), before and after CUDA_VISIBLE_DEVICES.

    Source: CUDA C++ Programming Guide, "CUDA Environment Variables": unset shows all; empty shows none; entries are
    ordinals, UUIDs or unambiguous prefixes of them, and MIG ids, also mixed; the first invalid entry, such as -1,
    ends the list. An entry that stands twice leaves no GPU at all (torch.cuda, `_parse_visible_devices`).
    The default CUDA_DEVICE_ORDER, FASTEST_FIRST, is PCI order among GPUs of one model, and not
    published among different ones. NVIDIA_VISIBLE_DEVICES is the container runtime's: it decides which devices there
    are, not their order.
    """
    driver = Numbering(DriverOrdinal, _fastest_first_entries(gpus, environ) or _entries_with_lost_gpus(gpus))
    text = environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return driver, Numbering(VisibleOrdinal, driver.entries)
    entries: dict[object, Entry] = {}
    for item in map(str.strip, text.split(",")):
        entry = driver.lookup(item)
        if entry is None:
            break
        # Two MIG devices of one GPU are two entries; so are two UUIDs that only the driver can resolve.
        key = item if entry.ambiguity or item.lower().startswith("mig-") else entry.gpu
        if key in entries:
            return driver, Numbering(VisibleOrdinal)
        entries[key] = entry
    return driver, Numbering(VisibleOrdinal, tuple(entries.values()))


def _fastest_first_entries(gpus: tuple[Gpu, ...], environ: Mapping[str, str]) -> tuple[Entry, ...]:
    """Return entries that may each be any of the GPUs, none if the order is known."""
    if environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({g.device_id for g in gpus if g.device_id}) < 2:
        return ()
    doubt = (
        "CUDA numbers GPUs of different models fastest first, so an ordinal does not determine a GPU; "
        "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name GPUs by UUID or PCI address"
    )
    return tuple(Entry(g, tuple(o for o in gpus if o != g), doubt) for g in gpus)


def _entries_with_lost_gpus(gpus: tuple[Gpu, ...]) -> tuple[Entry, ...]:
    """In PCI order; behind a GPU that its driver cannot reach, CUDA may or may not have counted it."""
    entries = []
    lost: list[Gpu] = []
    for i, gpu in enumerate(gpus):
        lost += [gpu] if gpu.error else []
        later = tuple(g for g in gpus[i + 1 :] if not g.error)[: len(lost)]
        doubt = f"the driver cannot reach {lost[0]} ({lost[0].error}), so CUDA may not count it" if lost else ""
        entries.append(Entry(gpu, later, doubt if later else ""))
    return tuple(entries)


def hip(gpus: tuple[Gpu, ...], environ: Mapping[str, str]) -> Numberings:
    """HIP's order of these GPUs (in PCI order, in which amdgpu finds them), before and after HIP_VISIBLE_DEVICES.

    ROCR_VISIBLE_DEVICES first: ordinals or UUIDs (`GPU-` and amdgpu's unique_id) or prefixes; empty hides all; an
    entry that is invalid or stands twice ends the list. Source: ROCm, "GPU isolation techniques", and ROCR-Runtime,
    core/runtime/amd_filter_device.cpp. Then HIP_VISIBLE_DEVICES, or where that is unset or empty
    CUDA_VISIBLE_DEVICES, counts among what is left: an invalid entry ends the list, one that stands twice counts
    once, empty shows all. Source: ROCm, "HIP environment variables", and clr, rocclr/device/rocm/rocdevice.cpp.
    """
    every = Numbering(RocrOrdinal, tuple(map(Entry, gpus)))
    text = environ.get("ROCR_VISIBLE_DEVICES")
    driver = Numbering(DriverOrdinal, every.entries if text is None else tuple(_until_repeated(every, text)))
    text = environ.get("HIP_VISIBLE_DEVICES") or environ.get("CUDA_VISIBLE_DEVICES")
    if not text:
        return driver, Numbering(VisibleOrdinal, driver.entries)
    return driver, Numbering(VisibleOrdinal, tuple(dict.fromkeys(_until_invalid(driver, text))))


def _until_invalid(order: Numbering[O], text: str) -> Iterator[Entry]:
    for item in map(str.strip, text.split(",")):
        entry = order.lookup(item)
        if entry is None:
            return
        yield entry


def _until_repeated(order: Numbering[O], text: str) -> Iterator[Entry]:
    seen = set()
    for entry in _until_invalid(order, text):
        if entry in seen and not entry.ambiguity:
            return
        seen.add(entry)
        yield entry


#: PCI device ids of the Data Center GPU Max series, whose cards may have two tiles (Linux, include/drm/intel/pciids.h).
_MAX_SERIES = range(0x0BD0, 0x0BF0)


def level_zero(gpus: tuple[Gpu, ...], environ: Mapping[str, str]) -> Numberings:
    """Return Level Zero's order of these GPUs (in PCI order), before and after its variables.

    Source: oneAPI Level Zero Specification, Core Programming Guide, "Affinity Mask" and "Device Hierarchy":
    ZE_AFFINITY_MASK holds ordinals of devices, or `device.subdevice`; it chooses and does not reorder; unset or empty
    shows all. ZE_FLAT_DEVICE_HIERARCHY decides what a device is: a card (COMPOSITE), or each tile of a card (FLAT, the
    default, and COMBINED). How many tiles a card has is not in its PCI address, so with cards that may have two,
    ordinals are ambiguous. The order is the driver's own unless ZE_ENABLE_PCI_ID_DEVICE_ORDER=1.
    ONEAPI_DEVICE_SELECTOR, of the SYCL runtime, then counts among the devices that are left.
    """
    doubt = ""
    if environ.get("ZE_FLAT_DEVICE_HIERARCHY", "FLAT") != "COMPOSITE" and any(g.device_id in _MAX_SERIES for g in gpus):
        doubt = "Level Zero counts tiles, not cards; set ZE_FLAT_DEVICE_HIERARCHY=COMPOSITE, or name PCI addresses"
    elif environ.get("ZE_ENABLE_PCI_ID_DEVICE_ORDER") != "1" and len({g.device_id for g in gpus}) > 1:
        doubt = "Level Zero's order of different models is its own; set ZE_ENABLE_PCI_ID_DEVICE_ORDER=1"
    entries = tuple(Entry(g, tuple(o for o in gpus if o != g) if doubt else (), doubt) for g in gpus)
    driver = Numbering(DriverOrdinal, entries)
    text = environ.get("ZE_AFFINITY_MASK", "").strip()
    if text:
        chosen = {DriverOrdinal.parse(entry.strip().partition(".")[0]) for entry in text.split(",")}
        entries = tuple(entry for i, entry in enumerate(entries) if DriverOrdinal(i) in chosen)
    return driver, Numbering(VisibleOrdinal, _selected_entries(entries, environ.get("ONEAPI_DEVICE_SELECTOR", "")))


_OTHER_TYPES = ("cpu", "fpga", "acc")
_BACKENDS = ("*", "level_zero", "opencl", "cuda", "hip", "native_cpu", "esimd_emulator")

#: A device of a selector's term: a root device and, after dots, a part of it.
_SELECTED = re.compile(r"(\*|cpu|gpu|fpga|acc|\d{1,5})((?:\.(?:\*|\d{1,5})){0,2})")


class _Selected(NamedTuple):
    """One device of ONEAPI_DEVICE_SELECTOR."""

    discarded: bool
    backend: str
    root: str
    part: str

    def positions(self, count: int) -> Iterable[int]:
        """Return which of `count` GPUs this is."""
        if self.root.isdigit():
            return [int(self.root)] if int(self.root) < count else []
        return range(count) if self.root in ("*", "gpu") else []


def _parse_selector(text: str) -> list[_Selected] | None:
    """Return the devices that a selector names, None if it is malformed."""
    devices = []
    for term in filter(None, map(str.strip, text.lower().split(";"))):
        backend, _, names = term.removeprefix("!").partition(":")
        for name in names.split(","):
            found = _SELECTED.fullmatch(name.strip())
            if found is None or backend not in _BACKENDS:
                return None
            devices.append(_Selected(term.startswith("!"), backend, found[1], found[2]))
    return devices


def _selected_entries(entries: tuple[Entry, ...], selector: str) -> tuple[Entry, ...]:
    """Return the entries that ONEAPI_DEVICE_SELECTOR leaves of Level Zero's.

    Grammar: DPC++, "Environment Variables": `backend:device,…;…`, case-insensitive. `!` in front discards, over what
    other terms accept; without a term that accepts, all are accepted. A device is `*`, a type or a position within the
    backend; `0.1` and `0.*` make parts of it devices of their own. Intel's GPUs are devices of OpenCL too, whose order
    (and whose CPUs among them) is not Level Zero's. SYCL keeps the order of the devices (DPC++,
    sycl/source/detail/platform_impl.cpp), Unified Runtime's urDeviceGetSelected that of the selector.
    """
    devices = _parse_selector(selector)
    if devices is None:
        return _ambiguous(entries, f"ONEAPI_DEVICE_SELECTOR={selector!r} is malformed; expected e.g. level_zero:0,1")
    here = [device for device in devices if device.backend in ("*", "level_zero")]
    accepted = [(i, d.part) for d in here if not d.discarded for i in d.positions(len(entries))]
    if all(device.discarded for device in devices):
        accepted = [(i, "") for i in range(len(entries))]
    discarded = {i for d in here if d.discarded and not d.part for i in d.positions(len(entries))}
    left = [(i, part) for i, part in dict.fromkeys(accepted) if i not in discarded]
    shown = tuple(entries[i] for i, _ in sorted(left))
    if not left and _shows_opencl_gpus(devices):
        return _ambiguous(
            entries, "ONEAPI_DEVICE_SELECTOR shows GPUs in OpenCL's order, which is unknown; use level_zero:"
        )
    if any(part for _, part in left):
        return _ambiguous(
            shown, "ONEAPI_DEVICE_SELECTOR shows parts of several GPUs, of unknown number; select one GPU"
        )
    if left != sorted(left):
        return _ambiguous(shown, "runtimes differ in the order of ONEAPI_DEVICE_SELECTOR; select in ascending order")
    return shown


def _shows_opencl_gpus(devices: list[_Selected]) -> bool:
    """Return whether GPUs of OpenCL are selected; a position there may be one."""
    there = [device for device in devices if device.backend in ("*", "opencl")]
    accepted = [d for d in there if not d.discarded and d.root not in _OTHER_TYPES]
    discarded = [d for d in there if d.discarded and d.root in ("*", "gpu")]
    return bool(accepted or all(device.discarded for device in devices)) and not discarded


def _ambiguous(entries: tuple[Entry, ...], reason: str) -> tuple[Entry, ...]:
    """Return entries each of which may be any of these GPUs."""
    gpus = dict.fromkeys(gpu for entry in entries for gpu in (entry.gpu, *entry.alternatives))
    return tuple(
        Entry(e.gpu, others, e.ambiguity or reason) if (others := tuple(g for g in gpus if g != e.gpu)) else e
        for e in entries
    )


Runtime = Callable[[tuple[Gpu, ...], Mapping[str, str]], Numberings]

#: By vendor; on a machine with several, an ordinal counts among the GPUs of the first. "none": placeholder GPUs.
NUMBERINGS: Mapping[str, Runtime] = {"nvidia": cuda, "amd": hip, "intel": level_zero, "none": cuda}


def pci_order(gpus: tuple[Gpu, ...], environ: Mapping[str, str]) -> Numberings:
    """PCI order and no variable: for a vendor whose runtime is not known here."""
    entries = tuple(map(Entry, gpus))
    return Numbering(DriverOrdinal, entries), Numbering(VisibleOrdinal, entries)
