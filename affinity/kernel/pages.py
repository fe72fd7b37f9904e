"""Where the own pages of a process lie: counted, or sampled if a count would stall the process.

Reading numa_maps walks the page tables of the whole process under its mmap lock, so that its next mmap waits as long.
move_pages(2) without target nodes looks at the pages it is given alone. Sources: numa(7), move_pages(2), proc(5).
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

import attrs

from affinity.kernel.procfs import anonymous_bytes
from affinity.kernel.syscalls import page_nodes

#: Measured on Linux 6.18 with pages of 4 KiB: 12 to 30 ms a GiB.
_SECONDS_PER_BYTE = 0.012 / (1 << 30)
#: The longest count, if a sample can be drawn; five times as long if it is refused.
COUNT_SECONDS = 0.004
#: Pages of a sample, and of one call, which takes 1 to 3 ms.
_SAMPLE = 1000
#: Pages to look at, where most addresses have none.
_MOST_LOOKED_AT = 20 * _SAMPLE


@attrs.frozen(eq=False)
class ResidentBytes(Mapping[int, int]):
    """Bytes of the own (anonymous) pages of a process by node.

    sampled: the number of pages that the shares of the nodes are estimated from, 0 if every page was counted.
    """

    by_node: Mapping[int, int]
    sampled: int = 0

    def __getitem__(self, node: int) -> int:
        return self.by_node[node]

    def __iter__(self) -> Iterator[int]:
        return iter(self.by_node)

    def __len__(self) -> int:
        return len(self.by_node)


def share_error(sampled: int) -> float:
    """Return the margin (0 to 1) within which 95 of 100 samples of this size have a node's share; 0 if counted."""
    return sampled**-0.5 if sampled else 0.0


def resident_bytes(
    directory: str,
    pid: int,
    *,
    longest: float = COUNT_SECONDS,
    nodes_of: Callable[[int, Sequence[int]], Sequence[int]] = page_nodes,
) -> ResidentBytes:
    """Return where the own pages of a process lie; pid 0 is the calling one.

    longest: seconds that a count may take; five times as long if a sample is refused. nodes_of: returns the node of
    each address, below 0 if no page is there.
    Raises OSError if a file or, for a large process, the sample is refused.
    """
    total = _anonymous_size(directory)
    if total * _SECONDS_PER_BYTE <= longest:
        return _count(directory)
    try:
        found = _sample(directory, total, lambda addresses: nodes_of(pid, addresses))
    except OSError as refused:
        if total * _SECONDS_PER_BYTE <= 5 * longest:
            return _count(directory)
        stall = f"to count its pages would stall the process for about {total * _SECONDS_PER_BYTE:.1g} s"
        raise OSError(refused.errno, f"{refused.strerror}; {stall}", refused.filename) from None
    sampled = sum(found.values())
    return ResidentBytes({node: total * count // sampled for node, count in sorted(found.items())}, sampled)


def _count(directory: str) -> ResidentBytes:
    with open(f"{directory}/numa_maps", encoding="utf-8", errors="replace") as maps:
        return ResidentBytes(anonymous_bytes(maps))


def _anonymous_size(directory: str) -> int:
    """Return the bytes of anonymous pages that are in memory. RssAnon is Linux 4.5's."""
    sizes = {}
    with open(f"{directory}/status", encoding="utf-8", errors="replace") as status:
        for line in status:
            key, _, value = line.partition(":")
            if key in ("VmRSS", "RssAnon"):
                sizes[key] = int(value.split()[0]) * 1024
    return sizes.get("RssAnon", sizes.get("VmRSS", 0))


def _sample(directory: str, total: int, nodes_of: Callable[[Sequence[int]], Sequence[int]]) -> dict[int, int]:
    """Return how many of some 1,000 pages, drawn at random from those in memory, lie on each node.

    Linux 6.1 to 6.5 do not show the pages that automatic NUMA balancing has marked (see migration.py). A node whose
    pages are read seldom would lack them. Raises OSError if more lack than the error of the sample allows for.
    """
    size = os.sysconf("SC_PAGE_SIZE")
    ranges = private_ranges(directory)
    ends = list(accumulate((end - start) // size for start, end in ranges))
    pages = ends[-1] if ends else 0
    draws = min(-(-_SAMPLE * pages * size // max(total, 1)), _MOST_LOOKED_AT)
    found: dict[int, int] = {}
    absent: list[int] = []
    numbers = [number % pages for number in memoryview(os.urandom(8 * draws)).cast("Q")] if pages else []
    for first in range(0, draws, _SAMPLE):
        addresses = []
        for number in numbers[first : first + _SAMPLE]:
            which = bisect_right(ends, number)
            addresses.append(ranges[which][1] - (ends[which] - number) * size)
        for address, node in zip(addresses, nodes_of(addresses), strict=True):
            if node >= 0:
                found[node] = found.get(node, 0) + 1
            else:  # no page is there, or it is a page of zeros
                absent.append(address)
    expected, shown = draws * total // max(pages * size, 1), sum(found.values())
    tolerated = 2 * expected * share_error(expected)
    if expected - shown > tolerated:  # of which a page of zeros is none
        hidden = _present(directory, absent)
        if hidden > tolerated:
            reason = f"automatic NUMA balancing hides {hidden} of {shown + hidden} pages of a sample"
            raise OSError(errno.ENODATA, f"{reason} on this kernel (Linux 6.1 to 6.5)", directory)
    if not found:
        raise OSError(errno.ENODATA, "no page of a sample is in memory", directory)
    return found


def _present(directory: str, addresses: Sequence[int]) -> int:
    """Return at how many addresses a page that is no file's is in memory, whether or not its node is shown."""
    size = os.sysconf("SC_PAGE_SIZE")
    pagemap = os.open(f"{directory}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        entries = b"".join(os.pread(pagemap, 8, address // size * 8) for address in addresses)
    finally:
        os.close(pagemap)
    return sum(is_own_page(entry) for entry in memoryview(entries).cast("Q"))


def is_own_page(entry: int) -> bool:
    """Return whether a pagemap entry is that of a page in memory, not swapped, which is no file's; or of zeros."""
    return entry >> 61 == 0b100


def private_ranges(directory: str, *, of_files: bool = False) -> Sequence[tuple[int, int]]:
    """Return the private mappings of no file, without those that the program may not use (reserved address space).

    of_files: also the writable private ones of a file, whose pages are the process's own once it has written to them.
    """
    ranges = []
    with open(f"{directory}/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            addresses, permissions, _, _, inode, *name = line.split(maxsplit=5)
            special = bool(name) and name[0].startswith("[v")  # the kernel's: vdso, vvar, vsyscall
            usable = permissions[:3] != "---" if inode == "0" else of_files and permissions[1] == "w"
            if permissions[3] == "p" and usable and not special:
                start, _, end = addresses.partition("-")
                ranges.append((int(start, 16), int(end, 16)))
    return ranges
