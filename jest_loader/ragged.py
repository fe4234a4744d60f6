"""A column of byte strings that stay where they lie until they are looked at.

A reader that makes a ``bytes`` of each row copies all of a super-batch, of which selection drops
most. Here a row is a place in a buffer (an open file, a decompressed shard), so taking rows,
joining batches and selecting move a few integers per row, and only a row that is looked at is read.
"""

import operator
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

Int64Array = NDArray[np.int64]
Buffer = bytes | bytearray | memoryview
_ITERATED_ROWS = 64  # Read at a time, where they are not in memory.


class Stored(Protocol):
    """Bytes that are not in memory, such as a file's."""

    def __len__(self) -> int:
        """Bytes."""
        ...

    def read_into(self, pieces: list[memoryview], starts: list[int]) -> None:
        """Fill each piece with the bytes from its start on; raises what reading them raises."""
        ...


class RaggedBytes(Sequence[bytes]):
    """Byte strings of any sizes, each a place in one of several buffers; rows cannot be changed.

    ``column[3]`` is a ``bytes``, a copy of that row alone; ``column[2:5]`` and ``take`` are columns
    over the same buffers, of which they keep those alive that they refer to. ``copy`` lets go of
    them. A pickle (or a deep copy) holds the rows and nothing else of their buffers.

    Args:
        rows: Byte strings, copied into one buffer.
    """

    def __init__(self, rows: Iterable[Buffer] = ()) -> None:
        values = list(rows)
        self._sizes = np.array([memoryview(value).nbytes for value in values], dtype=np.int64)
        self._starts = self._sizes.cumsum() - self._sizes
        self._owners = np.zeros(len(values), dtype=np.int32)  # the buffer that holds each row
        self._buffers: tuple[memoryview | Stored, ...] = (memoryview(b"".join(values)),)

    @classmethod
    def within(
        cls, buffer: Buffer | Stored, starts: Int64Array, sizes: Int64Array
    ) -> "RaggedBytes":
        """Rows that lie in ``buffer``, which must not change while the column is in use.

        Args:
            buffer: Contiguous; not copied. Of what is not in memory, rows are read when they are
                looked at, each time anew.
            starts: Int64 [n], where each row starts, in bytes.
            sizes: Int64 [n], bytes of each row.

        Raises:
            ValueError: if a row reaches beyond the buffer.
        """
        view = _read_only(buffer) if isinstance(buffer, Buffer) else buffer
        if len(starts) != len(sizes) or (
            len(starts)
            and (starts.min() < 0 or sizes.min() < 0 or (starts + sizes).max() > len(view))
        ):
            raise ValueError(
                f"rows must lie within their buffer of {len(view)} bytes, but some do not; "
                "give starts and sizes in bytes, as many of the one as of the other"
            )
        return cls._of((view,), np.zeros(len(starts), dtype=np.int32), starts, sizes)

    @classmethod
    def concat(cls, parts: Sequence["RaggedBytes"]) -> "RaggedBytes":
        """The rows of all parts, in that order, over the same buffers."""
        number_of: dict[int, int] = {}  # by identity: parts of one window share their buffers
        buffers: list[memoryview | Stored] = []
        owners = []
        for part in parts:
            for buffer in part._buffers:
                if id(buffer) not in number_of:
                    number_of[id(buffer)] = len(buffers)
                    buffers.append(buffer)
            numbers = [number_of[id(buffer)] for buffer in part._buffers]
            owners.append(np.array(numbers, dtype=np.int32)[part._owners])
        return cls._of(
            tuple(buffers),
            np.concatenate(owners),
            np.concatenate([part._starts for part in parts]),
            np.concatenate([part._sizes for part in parts]),
        )

    @classmethod
    def _of(
        cls,
        buffers: tuple[memoryview | Stored, ...],
        owners: NDArray[np.int32],
        starts: Int64Array,
        sizes: Int64Array,
    ) -> "RaggedBytes":
        column = cls.__new__(cls)
        column._buffers, column._owners = buffers, owners
        column._starts, column._sizes = starts, sizes
        return column

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, row: int) -> bytes: ...
    @overload
    def __getitem__(self, row: slice) -> "RaggedBytes": ...
    def __getitem__(self, row: int | slice) -> "bytes | RaggedBytes":
        if isinstance(row, slice):
            return self._select(row)
        return bytes(self.view(row))

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self), _ITERATED_ROWS):
            yield from map(bytes, self[start : start + _ITERATED_ROWS].views())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, RaggedBytes):
            return len(self) == len(other) and self.views() == other.views()
        if isinstance(other, list | tuple):
            return len(self) == len(other) and all(map(operator.eq, self.views(), other))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # compared by value, like a list

    def __repr__(self) -> str:
        return f"RaggedBytes of {len(self)} rows, {self.nbytes} bytes"

    def __reduce__(self) -> tuple[Any, ...]:
        joined = b"".join(self.views())
        return RaggedBytes.within, (joined, self._sizes.cumsum() - self._sizes, self._sizes)

    @property
    def sizes(self) -> Int64Array:
        """Int64 [n]: bytes of each row."""
        return self._sizes.copy()

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return int(self._sizes.sum())

    def view(self, row: int) -> memoryview:
        """A row where it lies, read-only; it keeps its buffer alive."""
        start = int(self._starts[row])
        buffer, size = self._buffers[self._owners[row]], int(self._sizes[row])
        if isinstance(buffer, memoryview):
            return buffer[start : start + size]
        piece = memoryview(bytearray(size))
        buffer.read_into([piece], [start])
        return piece.toreadonly()

    def views(self) -> list[memoryview]:
        """All rows where they lie."""
        buffers, stops = self._in_memory(), self._starts + self._sizes
        if buffers is None:
            return self.copy().views()
        places = zip(self._owners.tolist(), self._starts.tolist(), stops.tolist(), strict=True)
        return [buffers[owner][start:stop] for owner, start, stop in places]

    def _in_memory(self) -> list[memoryview] | None:
        """The buffers; None if one is not in memory."""
        found = [buffer for buffer in self._buffers if isinstance(buffer, memoryview)]
        return found if len(found) == len(self._buffers) else None

    def take(self, rows: Int64Array) -> "RaggedBytes":
        """The given rows (int64 [n]), in that order."""
        return self._select(rows)

    def parts(self, starts: Int64Array, sizes: Int64Array) -> "RaggedBytes":
        """A part of each row, over the same buffers.

        Args:
            starts: Int64 [n], where it starts within the row, in bytes.
            sizes: Int64 [n], its bytes.

        Raises:
            ValueError: if a part reaches beyond its row.
        """
        if (starts < 0).any() or (sizes < 0).any() or (starts + sizes > self._sizes).any():
            raise ValueError(
                "parts must lie within their rows, but some do not; give starts and sizes in bytes"
            )
        return self._of(self._buffers, self._owners, self._starts + starts, sizes)

    def copy(self) -> "RaggedBytes":
        """The same rows in a buffer of their own."""
        if self._in_memory() is not None:
            return RaggedBytes(self.views())
        stops = self._sizes.cumsum()
        places = stops - self._sizes
        room = np.empty(self.nbytes, np.uint8).data
        for owner, buffer in enumerate(self._buffers):
            rows = np.flatnonzero(self._owners == owner)
            ends = zip(places[rows].tolist(), stops[rows].tolist(), strict=True)
            pieces = [room[place:stop] for place, stop in ends]
            starts = self._starts[rows].tolist()
            if isinstance(buffer, memoryview):
                for piece, start in zip(pieces, starts, strict=True):
                    piece[:] = buffer[start : start + len(piece)]
            else:
                buffer.read_into(pieces, starts)
        return RaggedBytes.within(room, places, self._sizes)

    def to_array(self, dtype: DTypeLike, shape: tuple[int, ...] = ()) -> NDArray[Any]:
        """All rows as one array [n, *shape] of ``dtype``, a copy.

        Raises:
            ValueError: if a row is not of the size of one ``shape`` of ``dtype``.
        """
        item = np.dtype((np.void, np.dtype(dtype).itemsize * prod(shape)))
        if (self._sizes != item.itemsize).any():
            raise ValueError(
                f"all rows must have the {item.itemsize} bytes of {np.dtype(dtype)} {shape}, got "
                f"{self._sizes.min()} to {self._sizes.max()}"
            )
        if not item.itemsize or not len(self):
            return np.empty((len(self), *shape), dtype)
        buffers = self._in_memory()
        if buffers is None:
            return self.copy().to_array(dtype, shape)
        found = np.empty(len(self), item)
        for owner, buffer in enumerate(buffers):
            # An element at each byte, so that one index gathers rows whose starts are not aligned.
            anywhere = (max(0, len(buffer) - item.itemsize + 1),)
            items: NDArray[Any] = np.ndarray(anywhere, item, buffer, strides=(1,))
            rows = slice(None) if len(buffers) == 1 else np.flatnonzero(self._owners == owner)
            found[rows] = items[self._starts[rows]]
        return found.view(dtype).reshape(len(self), *shape)

    def _select(self, rows: "Int64Array | slice") -> "RaggedBytes":
        buffers, owners = self._buffers, self._owners[rows]
        if len(buffers) > 1:
            used = np.bincount(owners, minlength=len(buffers)) > 0
            if not used.all():
                owners = (used.cumsum(dtype=np.int32) - 1)[owners]
                buffers = tuple(buffer for buffer, kept in zip(buffers, used, strict=True) if kept)
        return self._of(buffers, owners, self._starts[rows], self._sizes[rows])


def _read_only(buffer: Buffer) -> memoryview:
    return memoryview(buffer).cast("B").toreadonly()
