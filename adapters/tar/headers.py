"""The members of a tar, by its headers alone: names, places and sizes.

A header is a block of 512 bytes before each member. They are read one after another, since each
says where the next one lies, and taken apart some thousands at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jest_loader.adapters.tar.fields import (
    BLOCK_BYTES,
    TarDamage,
    decimal,
    names_of,
    octal,
    records,
    size_of,
)
from jest_loader.adapters.tar.file_blocks import FileBlocks
from jest_loader.checks import shown
from jest_loader.ragged import Int64Array, Stored

FINE, LINK, DEVICE, SPARSE = range(4)
FLAWS = ("", "a link", "a device", "a sparse file")
"""What is wrong with a member, by number."""

_CHUNK_HEADERS = 4096
_LONG_BYTES = 1 << 20  # Of a name, or attributes.
_TAIL_BYTES = 1 << 20
_MOST_BEFORE = 8  # Headers for one member: a long name, a long link, attributes of several kinds.
_FLAW_OF = {b"1": LINK, b"2": LINK, b"3": DEVICE, b"4": DEVICE, b"6": DEVICE, b"S": SPARSE}
_FOLDER, _PLAIN, _BEFORE = b"5", b"0\x007", b"LKxg"
_FILE, _SPACE = ord("0"), ord(" ")
_MARKS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")  # gzip, zstd, bzip2, xz


class Members(NamedTuple):
    """Files of a tar, folders left out.

    Args:
        names: As they are stored.
        starts: Int64 [n], where each begins, in bytes.
        sizes: Int64 [n], in bytes.
        flaws: Uint8 [n], which of ``FLAWS`` each has.
    """

    names: list[bytes]
    starts: Int64Array
    sizes: Int64Array
    flaws: NDArray[np.uint8]


def members(data: Stored) -> Iterator[Members]:
    """All members of a tar, some thousands at a time, each with its header's checksum verified.

    Raises:
        TarDamage: if it is no whole tar, or is compressed.
    """
    walk = _Walk(data)
    while not walk.ended:
        yield walk.chunk()


@dataclass
class _Gathered:
    """Headers as they are found.

    Args:
        headers: All of them.
        places: Where they lie.
        files: Which of them are members' own.
        sizes: Bytes of each member.
        names: Names that are not in a member's header, by the member's number.
        starts: Where members begin that do not follow their header, by number.
        flaws: What is wrong with members that are not fine, by number.
    """

    headers: list[bytes] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    names: dict[int, bytes] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    flaws: dict[int, int] = field(default_factory=dict)

    def note(self, header: bytes, place: int) -> None:
        """Keep a header to verify."""
        self.headers.append(header)
        self.places.append(place)

    def members(self) -> Members:
        """The members, once all checksums are verified."""
        table = np.frombuffer(b"".join(self.headers), np.uint8).reshape(-1, BLOCK_BYTES)
        self._verify(table)
        files = np.array(self.files, np.int64)
        names = names_of(table[files])
        starts = np.array(self.places, np.int64)[files] + BLOCK_BYTES
        flaws = np.zeros(len(files), np.uint8)
        for number, name in self.names.items():
            names[number] = name
        for number, start in self.starts.items():
            starts[number] = start
        for number, flaw in self.flaws.items():
            flaws[number] = flaw
        return Members(names, starts, np.array(self.sizes, np.int64), flaws)

    def _verify(self, table: NDArray[np.uint8]) -> None:
        said = octal(table[:, 148:156])
        found = table.sum(axis=1, dtype=np.int64) - table[:, 148:156].sum(axis=1, dtype=np.int64)
        wrong = np.flatnonzero(found + 8 * ord(" ") != said)
        for row in wrong.tolist():
            rest = np.delete(table[row], np.s_[148:156])
            # Some old writers took bytes as signed.
            if int(rest.view(np.int8).sum(dtype=np.int64)) + 8 * ord(" ") != said[row]:
                raise TarDamage(self.places[row], "a header does not have its checksum")


class _Walk:
    """Goes from header to header.

    Args:
        data: A tar.
    """

    def __init__(self, data: Stored) -> None:
        self._data = data
        self._blocks = FileBlocks(data)
        self._place = 0
        self.ended = False

    def chunk(self) -> Members:
        """The next members."""
        gathered = _Gathered()
        try:
            while not self.ended and len(gathered.headers) < _CHUNK_HEADERS:
                self._plain(gathered)
                self._step(gathered)
        except TarDamage:
            gathered.members()  # Where a header before it is damaged, that is the error.
            raise
        return gathered.members()

    def _plain(self, gathered: _Gathered) -> None:
        """Files with a short name, up to anything else; ``_step`` does the same and the rest."""
        blocks, place, num_bytes = self._blocks, self._place, len(self._data)
        for number in range(len(gathered.headers), _CHUNK_HEADERS):
            start = place - blocks.first
            header = blocks.content[start : start + BLOCK_BYTES]
            if len(header) < BLOCK_BYTES:
                header = blocks.at(place)
            size = header[124:135]
            if not size.isdigit() or header[156] != _FILE or header[135] > _SPACE:
                break
            try:
                num_blocks = (int(size, 8) + BLOCK_BYTES - 1) // BLOCK_BYTES
            except ValueError:
                break
            following = place + BLOCK_BYTES + num_blocks * BLOCK_BYTES
            if following > num_bytes:
                break
            gathered.headers.append(header)
            gathered.places.append(place)
            gathered.files.append(number)
            gathered.sizes.append(int(size, 8))
            place = following
        self._place = place

    def _step(self, gathered: _Gathered) -> None:
        header = self._header()
        if header is None:
            return
        name, size, is_sparse = None, None, False
        first = len(gathered.headers)
        while header[156:157] in _BEFORE:
            if len(gathered.headers) - first > _MOST_BEFORE:
                raise TarDamage(self._place, "a member has too many headers")
            gathered.note(header, self._place)
            name, size, is_sparse = self._attributes(header, name, size, is_sparse)
            following = self._header()
            if following is None:
                raise TarDamage(self._place, "it ends after the name of a member")
            header = following
        gathered.note(header, self._place)
        if size is None:
            size = size_of(header, self._place)
        self._member(gathered, header, name, size, is_sparse)

    def _member(
        self, gathered: _Gathered, header: bytes, name: bytes | None, size: int, is_sparse: bool
    ) -> None:
        kind = header[156:157]
        flaw = _FLAW_OF.get(kind, SPARSE if is_sparse else FINE)
        is_folder = kind == _FOLDER
        if is_folder or flaw in (LINK, DEVICE):
            size = 0
        elif flaw == FINE and kind not in _PLAIN:
            raise TarDamage(self._place, f"a member of the unknown kind {shown(kind)}")
        start = self._place + BLOCK_BYTES
        if kind == b"S":
            start = self._after_holes(header, start)
        if start + size > len(self._data):
            raise TarDamage(
                self._place,
                f"a member of {size} bytes reaches beyond the {len(self._data)} bytes of the file",
            )
        self._place = start + -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if is_folder:
            return
        number = len(gathered.files)
        if name is not None:
            gathered.names[number] = name
        if kind == b"S":
            gathered.starts[number] = start
        if flaw != FINE:
            gathered.flaws[number] = flaw
        gathered.files.append(len(gathered.headers) - 1)
        gathered.sizes.append(size)

    def _header(self) -> bytes | None:
        """The header here; None at the end mark."""
        header = self._blocks.at(self._place)
        if self._place == 0:
            self._check_plain(header or self._short())
        if len(header) < BLOCK_BYTES:
            raise TarDamage(self._place, "it is cut short, or has no end mark")
        if header[0] == 0 and not any(header):
            self._end()
            return None
        return header

    def _short(self) -> bytes:
        """All of a file that is shorter than a header."""
        content = memoryview(bytearray(len(self._data)))
        self._data.read_into([content], [0])
        return content.tobytes()

    def _check_plain(self, header: bytes) -> None:
        if header.startswith(_MARKS):
            raise TarDamage(0, "it is compressed", is_packed=True)

    def _end(self) -> None:
        """See that nothing follows the end mark."""
        self.ended = True
        rest = memoryview(bytearray(min(_TAIL_BYTES, len(self._data) - self._place)))
        self._data.read_into([rest], [self._place])
        if any(rest.tobytes().strip(b"\0")):
            raise TarDamage(
                self._place, "other bytes follow its end mark: tars are not joined with cat"
            )

    def _after_holes(self, header: bytes, place: int) -> int:
        """Where the content of an old sparse member begins: after further lists of holes."""
        goes_on = header[482]
        while goes_on:
            block = self._blocks.at(place)
            if len(block) < BLOCK_BYTES:
                raise TarDamage(place, "it is cut short")
            goes_on, place = block[504], place + BLOCK_BYTES
        return place

    def _attributes(
        self, header: bytes, name: bytes | None, size: int | None, is_sparse: bool
    ) -> tuple[bytes | None, int | None, bool]:
        """What a header for the member after it says: its name, its size, whether it is sparse."""
        content = self._long(header)
        kind = header[156:157]
        if kind == b"L":
            return content.partition(b"\0")[0], size, is_sparse
        if kind == b"K":
            return name, size, is_sparse
        found = records(content, self._place)
        if kind == b"g" and found.keys() & {b"path", b"size"}:
            raise TarDamage(self._place, "it gives all members one name or size")
        if kind == b"x":
            name = found.get(b"GNU.sparse.name", found.get(b"path", name))
            if b"size" in found:
                size = decimal(found[b"size"], self._place)
            is_sparse = is_sparse or any(key.startswith(b"GNU.sparse.") for key in found)
        return name, size, is_sparse

    def _long(self, header: bytes) -> bytes:
        """What follows a header that is about another member; moves on to the header after it."""
        size, start = size_of(header, self._place), self._place + BLOCK_BYTES
        if size > _LONG_BYTES or start + size > len(self._data):
            raise TarDamage(
                self._place,
                f"a name or attributes of {size} bytes; at most {_LONG_BYTES} are read",
            )
        content = bytearray(size)
        self._data.read_into([memoryview(content)], [start])
        self._place = start + -(-size // BLOCK_BYTES) * BLOCK_BYTES
        return bytes(content)
