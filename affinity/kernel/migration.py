"""Move the own pages of a process to other nodes, in steps that do not stall it.

migrate_pages(2) holds up every mmap and munmap of the process until the last page is moved. move_pages(2) holds the
lock for one page at a time, so that a step is bounded by its number of pages. It leaves alone what another process maps
too, with any capability. Sources: move_pages(2), proc(5), Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from affinity.kernel.pages import is_own_page, private_ranges
from affinity.kernel.syscalls import move_pages, page_nodes, touch_pages
from affinity.topology.cpuset import NodeSet

#: Pages of one call, which takes about 4 ms; and the most pages that are looked for in one reading of the page tables.
CHUNK = 16_384

#: Pages of a call that is not split further when it ends at a page that cannot be moved.
_SMALLEST = 512


def destinations(origin: NodeSet, target: NodeSet) -> dict[int, int]:
    """Return the node that the pages of each node go to: what is on a node of `target` stays, the others in turn."""
    nodes = list(target)
    return {node: nodes[i % len(nodes)] for i, node in enumerate(origin - target)}


def migrate_pages(directory: str, pid: int, origin: NodeSet, target: NodeSet) -> int:
    """Move the own pages of a process, 0 for the calling one, from `origin` to `target`; return how many stay.

    directory: of the process in /proc. A page that is touched meanwhile for the first time may be missed.
    Raises OSError if a call is refused, with ENOMEM if a node is full: what was moved until then stays there.
    """
    goes = destinations(origin, target)
    left = 0
    for addresses in _chunks(directory) if goes else ():
        by_node: dict[int, list[int]] = {}
        for address, node in _located(pid, addresses):
            if node in goes:
                by_node.setdefault(node, []).append(address)
            left += node == _HIDDEN
        left += sum(_moved(pid, pages, goes[node]) for node, pages in by_node.items())
    return left


_HIDDEN = -1  # the node of a page that the kernel does not show


def _located(pid: int, addresses: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield each address with the node of its page, below 0 if there is no page.

    Linux 6.1 to 6.5 neither show nor move a page that automatic NUMA balancing has marked, to see which CPU is next to
    read it (gup_can_follow_protnone() in include/linux/mm.h): it looks like none (ENOENT), a huge one like no mapping
    (EFAULT). Such a page is read first, which takes the mark away.
    """
    marked = []
    for address, node in zip(addresses, page_nodes(pid, addresses), strict=True):
        if node in (-errno.ENOENT, -errno.EFAULT):
            marked.append(address)
        else:
            yield address, node
    if marked:
        try:
            touch_pages(pid, marked)
        except OSError:  # Yama and seccomp profiles may refuse it: they stay
            yield from ((address, _HIDDEN) for address in marked)
        else:
            yield from zip(marked, page_nodes(pid, marked), strict=True)


def _moved(pid: int, addresses: Sequence[int], node: int) -> int:
    """Move pages to a node; return how many stay: pinned, or mapped by another process."""
    failed = move_pages(pid, addresses, node)
    left = [a for a, now in zip(addresses, page_nodes(pid, addresses), strict=True) if now >= 0 and now != node]
    if not failed or not left or len(addresses) <= _SMALLEST:
        return len(left)
    middle = -(-len(left) // 2)  # the call ended at a page that cannot be moved: what comes after it was not tried
    return sum(_moved(pid, half, node) for half in (left[:middle], left[middle:]) if half)


def _chunks(directory: str) -> Iterator[list[int]]:
    """Yield the addresses of the own pages that are in memory."""
    size = os.sysconf("SC_PAGE_SIZE")
    addresses: list[int] = []
    with open(f"{directory}/pagemap", "rb", buffering=0) as pagemap:
        for start, end in private_ranges(directory, of_files=True):
            for first in range(start, end, CHUNK * size):
                addresses += _resident(pagemap, first, min(first + CHUNK * size, end), size)
                while len(addresses) >= CHUNK:
                    yield addresses[:CHUNK]
                    del addresses[:CHUNK]
    if addresses:
        yield addresses


_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg), include/uapi/linux/fs.h; Linux 6.7
_FILE, _PRESENT, _ZERO = 1 << 2, 1 << 3, 1 << 5  # PAGE_IS_FILE, PAGE_IS_PRESENT, PAGE_IS_PFNZERO
_REGIONS = 1024


def _resident(pagemap: BinaryIO, start: int, end: int, size: int) -> Iterator[int]:
    """Yield the addresses in a range, of at most CHUNK pages, where a page that is no file's is in memory."""
    import ctypes
    import fcntl

    while start < end:
        regions = (ctypes.c_uint64 * (3 * _REGIONS))()  # struct page_region: start, end, categories
        scan = bytearray(struct.pack("12Q", 96, 0, start, end, 0, ctypes.addressof(regions), _REGIONS, 0,
                                     _FILE | _ZERO, _FILE | _PRESENT | _ZERO, 0, _PRESENT))  # fmt: skip
        try:
            found = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, scan)
        except OSError as refused:
            if refused.errno not in (errno.ENOTTY, errno.EINVAL):
                raise
            yield from _listed(pagemap, start, end, size)
            return
        for i in range(found):
            yield from range(regions[3 * i], regions[3 * i + 1], size)
        start = struct.unpack_from("Q", scan, 32)[0]  # walk_end


def _listed(pagemap: BinaryIO, start: int, end: int, size: int) -> Iterator[int]:
    """Do the same by an entry for each page, as before Linux 6.7."""
    pagemap.seek(start // size * 8)
    entries = pagemap.read((end - start) // size * 8)
    if not entries.strip(b"\0"):  # a hole, which may be large
        return
    for i, entry in enumerate(memoryview(entries).cast("Q")):
        if is_own_page(entry):
            yield start + i * size
