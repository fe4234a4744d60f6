"""What is in the bytes of an MDS shard.

A shard is ``num_rows``, ``num_rows + 1`` offsets of rows (all uint32), a JSON header, then the
rows. A row is the uint32 sizes of its columns of variable size, then the values of all columns in
order.
"""

from collections.abc import Sequence

import numpy as np

from jest_loader.adapters.columns import Column
from jest_loader.adapters.order import Int64Array

_SCALARS = {"int": "int64"} | {
    name: name
    for name in [
        *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "float32", "float64"),
    ]
}
_UNDECODED = {"bytes", "jpeg", "png"}


def cells(
    data: bytes, num_rows: int, column_sizes: Sequence[int | None]
) -> list[tuple[Int64Array, Int64Array]]:
    """For each column, where the value of each row starts in ``data`` and how many bytes it has."""
    table = np.frombuffer(data, np.uint32, num_rows + 2)
    offsets = table[1:].astype(np.int64)
    if table[0] != num_rows or offsets[-1] != len(data) or (np.diff(offsets) < 0).any():
        raise ValueError("its table of rows does not match the file")
    variable = [column for column, size in enumerate(column_sizes) if not size]
    size_bytes = 4 * len(variable)
    if (np.diff(offsets) < size_bytes).any():
        raise ValueError("a row is too short")
    sizes_at = offsets[:-1, None] + np.arange(size_bytes)
    row_sizes = np.frombuffer(data, np.uint8)[sizes_at].view(np.uint32).astype(np.int64)

    start = offsets[:-1] + size_bytes
    found = []
    for column, size in enumerate(column_sizes):
        sizes = np.full(num_rows, size) if size else row_sizes[:, variable.index(column)]
        found.append((start, sizes))
        start = start + sizes
    if (start != offsets[1:]).any():
        raise ValueError("the columns of a row do not fill it")
    return found


def decode(encoding: str, data: bytes, starts: Int64Array, sizes: Int64Array) -> Column:
    """A column's values, given where each is in ``data``."""
    spans = zip(starts.tolist(), (starts + sizes).tolist(), strict=True)
    values = [data[start:stop] for start, stop in spans]
    if encoding in _UNDECODED:
        return values
    if encoding == "str":
        return [value.decode("utf-8") for value in values]
    kind, _, form = encoding.partition(":")
    if encoding in _SCALARS:
        return np.frombuffer(b"".join(values), _SCALARS[encoding])
    if kind == "ndarray" and ":" in form:
        dtype, _, shape = form.partition(":")
        return np.frombuffer(b"".join(values), dtype).reshape(
            len(values), *map(int, shape.split(","))
        )

    from streaming.base.format.mds.encodings import mds_decode

    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        column[row] = mds_decode(encoding, value)
    return column
