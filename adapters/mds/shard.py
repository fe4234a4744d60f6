"""Takes the bytes of an MDS shard apart.

A shard is ``num_rows``, ``num_rows + 1`` offsets of rows (all uint32), a JSON header, then the
rows. A row is the uint32 sizes of its columns of variable size, then the values of all columns in
order.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jest_loader.adapters.blocks.columns import Column
from jest_loader.adapters.mds.images import IMAGES, images_of
from jest_loader.ragged import Buffer, Int64Array, RaggedBytes, Stored

_SCALARS = {"int": "int64"} | {
    name: name
    for name in [
        *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "float32", "float64"),
    ]
}
UNDECODED = {"bytes", "jpeg", "png"}


class Span(NamedTuple):
    """Where a column's values lie within their rows.

    Args:
        starts: Int64 [rows], in bytes.
        sizes: Int64 [rows], in bytes.
    """

    starts: Int64Array
    sizes: Int64Array


def head_bytes(column_sizes: Sequence[int | None]) -> int:
    """Bytes of the sizes at a row's beginning."""
    return 4 * sum(not size for size in column_sizes)


def table_bytes(num_rows: int) -> int:
    """Bytes of the table at a shard's beginning."""
    return 4 * (num_rows + 2)


def stored_rows(
    data: Buffer | Stored, table: Buffer, num_rows: int, column_sizes: Sequence[int | None]
) -> RaggedBytes:
    """The rows of a shard, where they lie in ``data``.

    Args:
        data: A whole shard.
        table: Its first ``table_bytes(num_rows)``.
        num_rows: How many rows it must hold.
        column_sizes: Bytes of each column's values; None where they vary.

    Raises:
        ValueError: if ``data`` is no shard with that many rows.
    """
    words = np.frombuffer(table, np.uint32, num_rows + 2)
    offsets = words[1:].astype(np.int64)
    sizes = np.diff(offsets)
    if words[0] != num_rows or offsets[-1] != len(data) or (sizes < 0).any():
        raise ValueError("its table of rows does not match the file")
    if (sizes < head_bytes(column_sizes)).any():
        raise ValueError("a row is too short")
    return RaggedBytes.within(data, offsets[:-1], sizes)


def spans(
    column_sizes: Sequence[int | None], heads: RaggedBytes, row_sizes: Int64Array
) -> list[Span]:
    """Where each column's values lie.

    Args:
        column_sizes: Bytes of each column's values; None where they vary.
        heads: The beginning of each row.
        row_sizes: Int64 [rows], bytes of each row.

    Raises:
        ValueError: if the columns of a row do not fill it.
    """
    num_rows = len(heads)
    variable = [column for column, size in enumerate(column_sizes) if not size]
    varying = heads.to_array(np.uint32, (len(variable),)).astype(np.int64)
    start = np.full(num_rows, head_bytes(column_sizes))
    found = []
    for column, size in enumerate(column_sizes):
        sizes = np.full(num_rows, size) if size else varying[:, variable.index(column)]
        found.append(Span(start, sizes))
        start = start + sizes
    if (start != row_sizes).any():
        raise ValueError("the columns of a row do not fill it")
    return found


def decode(encoding: str, values: RaggedBytes) -> Column:
    """A column of decoded values; encoded images stay encoded.

    Raises:
        ValueError: if a value is not of that encoding. ``streaming``, which decodes the less common
            encodings, raises other errors too.
    """
    if encoding in UNDECODED:
        return values
    if encoding == "str":
        return [str(value, "utf-8") for value in values.views()]
    kind, _, form = encoding.partition(":")
    if encoding in _SCALARS:
        return values.to_array(_SCALARS[encoding])
    if kind == "ndarray" and ":" in form:
        dtype, _, shape = form.partition(":")
        return _array(values, np.dtype(dtype), tuple(map(int, shape.split(","))))

    from streaming.base.format.mds.encodings import mds_decode

    decode_one = images_of if encoding in IMAGES else mds_decode
    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        column[row] = decode_one(encoding, value)
    return column


def _array(values: RaggedBytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Column:
    """The values in the processor's byte order."""
    if dtype.kind not in "biufc" or min(shape) < 0:
        raise ValueError(f"an array must be of numbers and sizes, got {dtype} {shape}")
    return values.to_array(dtype, shape).astype(dtype.newbyteorder("="), copy=False)
