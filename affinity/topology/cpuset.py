"""`CpuSet` and `NodeSet`: immutable sets of ids in the kernel's list and mask formats.

Format: cpuset(7), "List format" and "Mask format". The two types never mix: a CPU number used as a
node number is the oldest bug of this trade, so every operator refuses the other type.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import ClassVar, Self

from affinity.errors import ListFormatError

#: One more than the largest id accepted. Linux stops at 8192 CPUs and 1024 nodes; the bound keeps
#: a hostile `0-999999999999` from costing memory.
MAX_ID = 1 << 16


class IdSet:
    """An immutable set of small non-negative ids, held as the bits of one integer."""

    __slots__ = ("_bits",)
    kind: ClassVar[str] = "id"
    _bits: int

    def __init__(self, ids: Iterable[int] | str = ()) -> None:
        """Make the set of these ids; text is read as by `parse`."""
        bits = self.parse(ids)._bits if isinstance(ids, str) else 0
        for i in () if isinstance(ids, str) else self._checked(ids):
            try:
                number = operator.index(i)
            except TypeError:
                raise ListFormatError(f"{self.kind} {i!r}: expected a whole number") from None
            if not 0 <= number < MAX_ID:
                raise ListFormatError(f"{self.kind} {i} is out of range: expected 0 to {MAX_ID - 1}")
            bits |= 1 << number
        object.__setattr__(self, "_bits", bits)

    def _checked(self, ids: object) -> Iterable[int]:
        wrong = isinstance(ids, bytes) or (isinstance(ids, IdSet) and type(ids) is not type(self))
        if wrong or not isinstance(ids, Iterable):
            name, kind = type(self).__name__, self.kind
            raise TypeError(f"{name}({ids!r}): expected {kind} numbers, or their list as text, e.g. {name}('0-3,8')")
        return ids

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    @classmethod
    def from_bits(cls, bits: int) -> Self:
        """Return the set that has *i* if bit *i* is set."""
        if bits < 0 or bits >> MAX_ID:
            raise ListFormatError(f"{cls.kind} mask is out of range: expected ids 0 to {MAX_ID - 1}")
        made = object.__new__(cls)
        object.__setattr__(made, "_bits", bits)
        return made

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the kernel's list format: `0-3,8`. Blank text is the empty set.

        Ends in a newline or NUL are ignored, as sysfs files may carry either.
        Raises ListFormatError, naming the part that does not parse.
        """
        bits = 0
        text = text.strip("\0 \t\r\n")
        for part in text.split(",") if text else ():
            first, dash, last = part.strip().partition("-")
            if not (_is_number(first) and (_is_number(last) if dash else True)):
                raise ListFormatError(
                    f"{_short(part)!r} in {_short(text)!r} is no {cls.kind} list: expected e.g. 0-3,8"
                )
            low, high = int(first), int(last) if dash else int(first)
            if high >= MAX_ID:
                raise ListFormatError(
                    f"{cls.kind} {high} in {_short(text)!r} is out of range: expected at most {MAX_ID - 1}"
                )
            if low > high:
                raise ListFormatError(f"{part!r} in {_short(text)!r} runs backwards: expected {high}-{low}")
            bits |= ((1 << (high - low + 1)) - 1) << low
        return cls.from_bits(bits)

    @classmethod
    def parse_mask(cls, text: str) -> Self:
        """Read the kernel's mask format: comma separated 32-bit hexadecimal words, highest first."""
        bits = 0
        for word in text.strip("\0 \t\r\n").split(","):
            if not 0 < len(word) <= 8 or any(c not in "0123456789abcdefABCDEF" for c in word):
                raise ListFormatError(
                    f"{_short(word)!r} in {_short(text)!r} is no 32-bit mask word: expected e.g. 000000ff"
                )
            bits = bits << 32 | int(word, 16)
        return cls.from_bits(bits)

    @property
    def bits(self) -> int:
        """The set as an integer: bit *i* is set where *i* is a member."""
        return self._bits

    def first(self) -> int:
        """Return the lowest id. Raises ValueError on the empty set."""
        if not self._bits:
            raise ValueError(f"an empty {type(self).__name__} has no first {self.kind}")
        return (self._bits & -self._bits).bit_length() - 1

    def __iter__(self) -> Iterator[int]:
        bits = self._bits
        while bits:
            low = bits & -bits
            yield low.bit_length() - 1
            bits ^= low

    def __len__(self) -> int:
        return self._bits.bit_count()

    def __bool__(self) -> bool:
        return self._bits != 0

    def __contains__(self, item: object) -> bool:
        return isinstance(item, int) and item >= 0 and bool(self._bits >> item & 1)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._bits == self._bits

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._bits))

    def _same(self, other: Self) -> int:
        if type(other) is not type(self):
            raise TypeError(f"a {type(self).__name__} does not mix with a {type(other).__name__}")
        return other._bits

    def __and__(self, other: Self) -> Self:
        return self.from_bits(self._bits & self._same(other))

    def __or__(self, other: Self) -> Self:
        return self.from_bits(self._bits | self._same(other))

    def __sub__(self, other: Self) -> Self:
        return self.from_bits(self._bits & ~self._same(other))

    def __le__(self, other: Self) -> bool:
        return not self._bits & ~self._same(other)

    def isdisjoint(self, other: Self) -> bool:
        return not self._bits & self._same(other)

    def __str__(self) -> str:
        """The kernel's list format; the empty set is the empty string."""
        parts = []
        bits, base = self._bits, 0
        while bits:
            skip = (bits & -bits).bit_length() - 1
            bits >>= skip
            run = (~bits & (bits + 1)).bit_length() - 1
            low = base + skip
            parts.append(str(low) if run == 1 else f"{low}-{low + run - 1}")
            bits >>= run
            base = low + run
        return ",".join(parts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}.parse({str(self)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self).from_bits, (self._bits,)


class CpuSet(IdSet):
    """CPUs by the kernel's logical number.

    >>> from affinity import CpuSet
    >>> str(CpuSet.parse("0-3,8") & CpuSet(range(2, 16)))
    '2-3,8'
    >>> 3 in CpuSet.parse("0-3,8"), len(CpuSet.parse("0-3,8"))
    (True, 5)
    """

    __slots__ = ()
    kind = "CPU"


class NodeSet(IdSet):
    """NUMA nodes by the kernel's number. Numbers are sparse: never count them to get the largest."""

    __slots__ = ()
    kind = "node"


def cpu_set(cpus: Iterable[int] | str) -> CpuSet:
    """Return the set of these CPUs, or of their list as text; a CpuSet as it is."""
    return cpus if isinstance(cpus, CpuSet) else CpuSet(cpus)


def node_set(nodes: Iterable[int] | str) -> NodeSet:
    """Return the set of these nodes, or of their list as text; a NodeSet as it is."""
    return nodes if isinstance(nodes, NodeSet) else NodeSet(nodes)


def _is_number(text: str) -> bool:
    return 0 < len(text) <= 12 and text.isascii() and text.isdigit()


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
