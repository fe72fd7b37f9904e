"""Where the pages of a process lie: counted in a small one, sampled in a large one, for which `longest=0` stands."""

from __future__ import annotations

import ctypes
import errno
import mmap
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from affinity.kernel import ResidentBytes
from affinity.kernel.pages import resident_bytes, share_error
from affinity.kernel.syscalls import page_nodes, touch_pages

MIB = 1 << 20
SELF = "/proc/self"
MAP_NORESERVE = 0x4000  # mmap(2); the module has it from Python 3.13 on


@pytest.fixture(autouse=True)
def pages() -> mmap.mmap:
    """256 MiB in pages of the smallest size."""
    block = mmap.mmap(-1, 256 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.madvise(mmap.MADV_NOHUGEPAGE)
    for offset in range(0, len(block), mmap.PAGESIZE):
        block[offset] = 1
    return block


def test_a_sample_finds_what_a_count_finds() -> None:
    """The sum within some percent: a count and a sample see the stacks and the holes of the address space otherwise."""
    counted = resident_bytes(SELF, 0, longest=60)  # however large the tests before it made this process
    sampled = resident_bytes(SELF, 0, longest=0)
    assert counted.sampled == 0
    assert sampled.sampled >= 500
    assert counted.keys() == sampled.keys()
    assert sum(sampled.values()) == pytest.approx(sum(counted.values()), rel=0.1)


def test_the_shares_of_a_sample_are_right_within_its_error() -> None:
    """Of four nodes, which have an eighth, three, and four eighths of the pages; the last none."""

    def dealt(pid: int, addresses: Sequence[int]) -> list[int]:
        nodes = [0, 1, 1, 1, 2, 2, 2, 2]
        there = page_nodes(pid, addresses)
        return [nodes[a // mmap.PAGESIZE % 8] if node >= 0 else node for a, node in zip(addresses, there, strict=True)]

    found = resident_bytes(SELF, 0, longest=0, nodes_of=dealt)
    total = sum(found.values())
    assert list(found) == [0, 1, 2]
    for node, share in enumerate((1 / 8, 3 / 8, 4 / 8)):
        assert found[node] / total == pytest.approx(share, abs=2 * share_error(found.sampled))


def test_every_page_of_a_sample_is_the_processes_own(pages: mmap.mmap) -> None:
    """In a mapping of no file, at a whole page; no call is for more than 1,000, however sparse the addresses are."""
    with mmap.mmap(-1, 1 << 34, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE):
        calls = []

        def watched(pid: int, addresses: Sequence[int]) -> list[int]:
            calls.append(addresses)
            return page_nodes(pid, addresses)

        found = resident_bytes(SELF, 0, longest=0, nodes_of=watched)
        ranges = []
        with open("/proc/self/maps") as maps:
            for line in maps:
                if line.split()[4] == "0":
                    ranges.append([int(address, 16) for address in line.split()[0].split("-")])
    assert len(calls) == 20
    assert max(map(len, calls)) == 1000
    assert 0 < found.sampled < 1000
    for address in (a for addresses in calls for a in addresses):
        assert address % mmap.PAGESIZE == 0
        assert any(start <= address < end for start, end in ranges)


def test_a_small_process_is_not_sampled_and_a_large_one_not_counted() -> None:
    """A sample that is refused is an error that states why there was no count."""

    def refused(pid: int, addresses: Sequence[int]) -> list[int]:
        raise OSError(errno.EPERM, "Operation not permitted", "move_pages")

    assert resident_bytes(SELF, 0, nodes_of=refused)
    with pytest.raises(
        OSError, match=r"not permitted; to count its pages would stall the process for about 0\.00"
    ) as why:
        resident_bytes(SELF, 0, longest=0, nodes_of=refused)
    assert (why.value.errno, why.value.filename) == (errno.EPERM, "move_pages")


def hide_half(pid: int, addresses: Sequence[int]) -> list[int]:
    """Every other page is marked by automatic NUMA balancing, on Linux 6.1 to 6.5."""
    there = page_nodes(pid, addresses)
    return [-errno.ENOENT if a // mmap.PAGESIZE % 2 else node for a, node in zip(addresses, there, strict=True)]


def test_no_share_is_estimated_from_a_sample_that_the_kernel_hides_pages_of() -> None:
    """The pages are counted if that takes not much longer than usual, else the error states why they are not."""
    with pytest.raises(OSError, match=r"^\[Errno 61\] automatic NUMA balancing hides (\d+) of (\d+) pages") as refused:
        resident_bytes(SELF, 0, longest=0, nodes_of=hide_half)
    hidden, total = map(int, re.findall(r"\d+", str(refused.value))[1:3])
    assert hidden / total == pytest.approx(0.5, abs=0.1)
    assert "; to count its pages would stall the process for about" in str(refused.value)
    seconds = 0.012 * sum(resident_bytes(SELF, 0).values()) / (1 << 30)
    assert resident_bytes(SELF, 0, longest=seconds / 3).sampled > 0
    assert resident_bytes(SELF, 0, longest=seconds / 3, nodes_of=hide_half).sampled == 0


def test_pages_of_zeros_are_no_hidden_ones() -> None:
    """Memory that was read alone is no page of the process's own; the kernel shows no node of it."""
    with mmap.mmap(-1, 32 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as read:
        read.madvise(mmap.MADV_NOHUGEPAGE)
        assert not any(read[offset] for offset in range(0, len(read), mmap.PAGESIZE))
        assert resident_bytes(SELF, 0, longest=0).sampled >= 500


def test_resident_bytes_are_a_mapping_that_can_be_sent() -> None:
    """As a report is, from an actor to its creator."""
    found = ResidentBytes({0: 4096, 2: 8192}, sampled=3)
    sent = pickle.loads(pickle.dumps(found))
    assert sent == found == {0: 4096, 2: 8192}
    assert sent.sampled == 3
    assert share_error(0) == 0
    assert share_error(10_000) == 0.01


def test_pages_are_read_around_holes(pages: mmap.mmap) -> None:
    """As where the process unmaps memory meanwhile; an address of no mapping is no error."""
    first = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    addresses = [first, 4096, first + mmap.PAGESIZE, 8192, 12288, *range(first, first + 3000 * mmap.PAGESIZE, 4096)]
    with mmap.mmap(-1, 2 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as untouched:
        there = ctypes.addressof(ctypes.c_char.from_buffer(untouched))
        untouched.madvise(mmap.MADV_NOHUGEPAGE)
        assert page_nodes(0, [there])[0] < 0
        touch_pages(0, [*addresses, there])
        assert page_nodes(0, [there])[0] == -errno.EFAULT  # the page of zeros, which no process owns
    with pytest.raises(ProcessLookupError):
        touch_pages(2**22 - 1, addresses)


@pytest.mark.parametrize("scan", [True, False], ids=["PAGEMAP_SCAN", "pagemap"])
def test_the_own_pages_are_found(pages: mmap.mmap, scan: bool, python: Callable[..., object]) -> None:
    """Those that were written to, in anonymous memory and in a private mapping of a file; by either reading."""
    folder = str(Path(__file__).parent)
    refuse = f"import sys; sys.path[:0] = [{folder!r}]; import seccomp; seccomp.refuse(25, ['ioctl'])\n"  # ENOTTY
    python(
        "import ctypes, mmap, tempfile\n"
        "from affinity.kernel.migration import _chunks\n"
        "M, P = mmap, mmap.PAGESIZE\n"
        "file = tempfile.TemporaryFile(); file.truncate(64 * P)\n"
        "private = M.mmap(file.fileno(), 64 * P, flags=M.MAP_PRIVATE)\n"
        "shared = M.mmap(file.fileno(), 64 * P, flags=M.MAP_SHARED)\n"
        "block = M.mmap(-1, 1 << 34, flags=M.MAP_PRIVATE | M.MAP_ANONYMOUS | 0x4000)\n"
        "block.madvise(M.MADV_NOHUGEPAGE)\n"
        "def at(m, i): return ctypes.addressof(ctypes.c_char.from_buffer(m)) + i * P\n"
        "for i in (0, 1, 77777, (1 << 34) // P - 1): block[i * P] = 1\n"
        "private[3 * P] = 1; shared[5 * P] = 1; private[9 * P]; block[50 * P]\n"
        f"{chr(10) if scan else refuse}"
        "found = [a for chunk in _chunks('/proc/self') for a in chunk]\n"
        "assert len(found) == len(set(found))\n"
        "mine = {a for a in found if at(block, 0) <= a < at(block, 0) + (1 << 34)}\n"
        "assert mine - {at(block, 50)} == {at(block, i) for i in (0, 1, 77777, (1 << 34) // P - 1)}, mine\n"
        "assert [a for a in found if at(private, 0) <= a < at(private, 64)] == [at(private, 3)]\n"
        "assert not [a for a in found if at(shared, 0) <= a < at(shared, 64)]\n"
    )
