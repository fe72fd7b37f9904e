"""`pci`: GPUs from sysfs alone: no driver library, any vendor, also in a container that hides the driver.

Classes: the PCI Code and ID Assignment Specification (03xx display, 12xx processing accelerator). Management
chips (ASPEED, Matrox) are no GPUs: their vendors are not listed.
"""

from __future__ import annotations

from affinity import DeviceProvider, Evidence, Gpu, Host, NodeSet, Source, Support

VENDORS = {0x10DE: "nvidia", 0x1002: "amd", 0x8086: "intel"}


class Pci(DeviceProvider):
    """Works everywhere sysfs does."""

    def supports(self, host: Host) -> Support:
        return Support.yes("PCI devices in sysfs")

    def devices(self, host: Host) -> tuple[Gpu, ...]:
        gpus = []
        for device in host.topology.pci_devices:
            if device.vendor not in VENDORS:
                continue
            evidence = []
            if device.numa_node is not None:
                evidence.append(Evidence(Source.PCI_NUMA_NODE, nodes=NodeSet([device.numa_node])))
            if device.bridge_cpus:
                evidence.append(Evidence(Source.PCI_BRIDGE, cpus=device.bridge_cpus))
            gpus.append(Gpu(device.address, VENDORS[device.vendor], evidence=tuple(evidence)))
        return tuple(gpus)
