"""`pci`: GPUs of any vendor from sysfs, without a driver library, also in a container that hides the driver.

Classes (03xx display, 12xx processing accelerator): PCI Code and ID Assignment Specification; no others are read.
Management chips (ASPEED, Matrox) and emulated consoles are no GPUs, so their vendors are not listed.
"""

from __future__ import annotations

from collections.abc import Sequence

from affinity import CpuSet, Host, NodeSet, Settings
from affinity.devices import EVERY_PROCESS, DeviceProvider, Gpu, GpuUse, NodeEvidence, NodeSource, ProcessFilter
from affinity.strategies import Support
from affinity.topology import Origin, PciDevice
from affinity_plugins.devices.process_files import ProcessFiles

VENDORS = {0x10DE: "nvidia", 0x1002: "amd", 0x8086: "intel"}


class Pci(DeviceProvider):
    """GPUs from sysfs, on any machine with a readable sysfs."""

    def supports(self, host: Host) -> Support:
        return Support.yes("PCI devices in sysfs")

    def devices(self, host: Host, settings: Settings) -> tuple[Gpu, ...]:
        return tuple(
            Gpu(
                device.address,
                VENDORS[device.vendor],
                device_id=device.device,
                uuid=f"GPU-{device.unique_id}" if device.unique_id else None,
                evidence=_evidence(device, host.topology.online),
            )
            for device in host.topology.pci_devices
            if device.vendor in VENDORS and not _integrated(device)
        )

    def processes(
        self, host: Host, gpus: Sequence[Gpu], asked: ProcessFilter = EVERY_PROCESS
    ) -> Sequence[GpuUse] | None:
        return ProcessFiles(asked=asked).uses(gpus) if host.topology.origin is Origin.LIVE else None


def _evidence(device: PciDevice, online: CpuSet) -> tuple[NodeEvidence, ...]:
    found = []
    if device.numa_node is not None:
        found.append(NodeEvidence(NodeSource.PCI_NUMA_NODE, nodes=NodeSet([device.numa_node])))
    elif device.local_cpus and device.local_cpus != online:  # all CPUs: the kernel has no information
        found.append(NodeEvidence(NodeSource.PCI_LOCAL, cpus=device.local_cpus))
    if device.memory_node is not None:
        found.append(NodeEvidence(NodeSource.GPU_MEMORY, nodes=NodeSet([device.memory_node])))
    if device.bridge_cpus:
        found.append(NodeEvidence(NodeSource.PCI_BRIDGE, cpus=device.bridge_cpus))
    return tuple(found)


def _integrated(device: PciDevice) -> bool:
    """Return whether the device is graphics (or an NPU) inside the processor.

    Intel: the graphics are device 2 of bus 0, the NPU is an accelerator on bus 0. Cards are behind a bridge; in a
    virtual machine they may be on bus 0, at another device number. AMD: device ids below 0x2000 and 0x9600-0x99ff
    (Linux, drivers/gpu/drm: Llano to Strix). An MI300A is also a processor, but its GPUs are for computing.
    """
    address = device.address
    if device.vendor == 0x8086:
        return (address.domain, address.bus) == (0, 0) and (address.device == 2 or device.class_code >> 16 == 0x12)
    # Device id 0 is not assigned: a synthetic machine has no device ids.
    return device.vendor == 0x1002 and (0 < device.device < 0x2000 or 0x9600 <= device.device <= 0x99FF)
