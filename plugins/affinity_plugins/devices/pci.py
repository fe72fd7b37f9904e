"""`pci`: GPUs from sysfs alone: no driver library, any vendor, also in a container that hides the driver.

Classes (03xx display, 12xx processing accelerator): PCI Code and ID Assignment Specification; sysfs gives no others.
Management chips (ASPEED, Matrox) and emulated consoles are no GPUs: their vendors are not listed.
"""

from __future__ import annotations

from affinity import CpuSet, Host, NodeSet, Settings
from affinity.devices import DeviceProvider, Gpu, NodeEvidence, NodeSource
from affinity.strategies import Support
from affinity.topology import PciDevice

VENDORS = {0x10DE: "nvidia", 0x1002: "amd", 0x8086: "intel"}


class Pci(DeviceProvider):
    """Works everywhere sysfs does."""

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
    """Graphics (or an NPU) inside the processor.

    Intel: the graphics are always device 2 of bus 0, the NPU an accelerator on bus 0; cards are behind a bridge,
    and given to a virtual machine they may be on bus 0, elsewhere. AMD: numbers below 0x2000 and 0x9600-0x99ff
    (Linux, drivers/gpu/drm: Llano to Strix); an MI300A is a processor too, but one whose GPUs are what it is for.
    """
    here = device.address
    if device.vendor == 0x8086:
        return (here.domain, here.bus) == (0, 0) and (here.device == 2 or device.class_code >> 16 == 0x12)
    # Device 0 does not exist: a machine described in one line gives no device ids.
    return device.vendor == 0x1002 and (0 < device.device < 0x2000 or 0x9600 <= device.device <= 0x99FF)
