"""What the fields of a tar's headers say."""

import numpy as np
from numpy.typing import NDArray

from jest_loader.checks import shown
from jest_loader.ragged import Int64Array

BLOCK_BYTES = 512


class TarDamage(ValueError):
    """What is wrong with a tar, and where.

    Args:
        place: The byte at which it shows.
        what: What it is.
        is_packed: Whether it is compressed.
    """

    def __init__(self, place: int, what: str, *, is_packed: bool = False) -> None:
        super().__init__(what)
        self.place = place
        self.is_packed = is_packed


def names_of(table: NDArray[np.uint8]) -> list[bytes]:
    """The names of members' own headers, uint8 [n, 512]."""
    names: list[bytes] = np.ascontiguousarray(table[:, :100]).view("S100")[:, 0].tolist()
    has_more = (table[:, 345] != 0) & (table[:, 257:263] == tuple(b"ustar\0")).all(axis=1)
    for row in np.flatnonzero(has_more).tolist():
        folder = table[row, 345:500].tobytes().partition(b"\0")[0]
        names[row] = folder + b"/" + names[row].partition(b"\0")[0]
    return [name.partition(b"\0")[0] if b"\0" in name else name for name in names]


def octal(fields: NDArray[np.uint8]) -> Int64Array:
    """Int64 [n]: the octal numbers in fields of ASCII, uint8 [n, width]; -1 where there is none."""
    value = np.zeros(len(fields), np.int64)
    begun = np.zeros(len(fields), bool)
    ended = np.zeros(len(fields), bool)
    for column in fields.T:
        is_digit = (column >= ord("0")) & (column <= ord("7"))
        ended |= ~is_digit & (begun | (column != ord(" ")))
        taken = is_digit & ~ended
        value = np.where(taken, value * 8 + (column.astype(np.int64) - ord("0")), value)
        begun |= taken
    return np.where(begun, value, -1)


def size_of(header: bytes, place: int) -> int:
    """The size that a header gives: octal, or base 256 where its first bit is set."""
    stored = header[124:136]
    if stored[0] == 0x80:
        return int.from_bytes(stored[1:])
    digits = stored.partition(b"\0")[0].strip()
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        if digits or stored[0] != 0:
            raise TarDamage(place, "this is no header of a tar: it gives no size")
        return 0
    return int(digits, 8)


def decimal(text: bytes, place: int) -> int:
    """A number of a pax header."""
    if not text.isdigit() or len(text) > 18:
        raise TarDamage(place, f"a size must be a number, got {shown(text)}")
    return int(text)


def records(content: bytes, place: int) -> dict[bytes, bytes]:
    """The attributes of a pax header: lines of "LENGTH KEY=VALUE"."""
    found, start = {}, 0
    while start < len(content) and content[start] != 0:
        length, space, _ = content[start : start + 20].partition(b" ")
        stop = start + int(length) if length.isdigit() else 0
        record = content[start + len(length) + len(space) : stop - 1]
        key, equals, value = record.partition(b"=")
        if not space or not equals or stop > len(content) or content[stop - 1 : stop] != b"\n":
            raise TarDamage(place, "attributes of a member that are none")
        found[key] = value
        start = stop
    return found
