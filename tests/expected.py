"""The node of each GPU of the named machines, in PCI order: what every way of finding out must give."""

from __future__ import annotations

NODES_OF: dict[str, list[int | None]] = {
    "dgx-h100": [0, 0, 0, 0, 1, 1, 1, 1],
    "dgx-a100": [3, 3, 1, 1, 7, 7, 5, 5],
    "azure-ndv4": [1, 1, 0, 0, 3, 3, 2, 2],
    "gb200": [0, 0, 1, 1],
    "gh200": [0],
    "power9-ac922": [0, 0, 0, 8, 8, 8],
    "mi250x": [3, 3, 1, 1, 0, 0, 2, 2],
    "dgx-2": [0] * 8 + [1] * 8,
    "vm-one-node": [0, 0],
    "vm-two-nodes": [None] * 4,
    "vm-known-bridge": [0, 1],
    "container-without-gpu-node": [0, 0, 0, 0, 1, 1, 1, 1],
}
