"""A column of byte strings that stay where they lie until they are looked at.

A reader that makes a ``bytes`` of each row copies all of a super-batch, of which selection drops
most. Here a row is a place in a buffer (a mapped file, a decompressed shard), so taking rows,
joining batches and selecting move a few integers per row, and only a row that is looked at is read.
"""

import operator
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

Int64Array = NDArray[np.int64]
Buffer = bytes | bytearray | memoryview


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
        self._buffers: tuple[memoryview, ...] = (memoryview(b"".join(values)),)

    @classmethod
    def within(cls, buffer: Buffer, starts: Int64Array, sizes: Int64Array) -> "RaggedBytes":
        """Rows that lie in ``buffer``, which must not change while the column is in use.

        Args:
            buffer: Contiguous; not copied.
            starts: Int64 [n], where each row starts, in bytes.
            sizes: Int64 [n], bytes of each row.

        Raises:
            ValueError: if a row reaches beyond the buffer.
        """
        view = memoryview(buffer).cast("B").toreadonly()
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
        buffers: list[memoryview] = []
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
        buffers: tuple[memoryview, ...],
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
        return map(bytes, self.views())

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
        own = self.copy()
        return RaggedBytes.within, (bytes(own._buffers[0]), own._starts, own._sizes)

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
        buffer: memoryview = self._buffers[self._owners[row]]
        return buffer[start : start + int(self._sizes[row])]

    def views(self) -> list[memoryview]:
        """All rows where they lie."""
        buffers, stops = self._buffers, self._starts + self._sizes
        places = zip(self._owners.tolist(), self._starts.tolist(), stops.tolist(), strict=True)
        return [buffers[owner][start:stop] for owner, start, stop in places]

    def take(self, rows: Int64Array) -> "RaggedBytes":
        """The given rows (int64 [n]), in that order."""
        return self._select(rows)

    def copy(self) -> "RaggedBytes":
        """The same rows in a buffer of their own."""
        return RaggedBytes(self.views())

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
        found = np.empty(len(self), item)
        for owner, buffer in enumerate(self._buffers):
            # An element at each byte, so that one index gathers rows whose starts are not aligned.
            anywhere = (max(0, len(buffer) - item.itemsize + 1),)
            items: NDArray[Any] = np.ndarray(anywhere, item, buffer, strides=(1,))
            rows = slice(None) if len(self._buffers) == 1 else np.flatnonzero(self._owners == owner)
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
