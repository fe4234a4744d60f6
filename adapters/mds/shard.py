"""Takes the bytes of an MDS shard apart.

A shard is ``num_rows``, ``num_rows + 1`` offsets of rows (all uint32), a JSON header, then the
rows. A row is the uint32 sizes of its columns of variable size, then the values of all columns in
order.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jest_loader.adapters.blocks.columns import Column
from jest_loader.checks import shown
from jest_loader.ragged import Buffer, RaggedBytes

_SCALARS = {"int": "int64"} | {
    name: name
    for name in [
        *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "float32", "float64"),
    ]
}
_UNDECODED = {"bytes", "jpeg", "png"}
# Pillow knows others, and starts programs to read some. An MPO is a JPEG with more behind it.
_IMAGES = {"jpeg": ("JPEG", "MPO"), "png": ("PNG",)}


def cells(data: Buffer, num_rows: int, column_sizes: Sequence[int | None]) -> list[RaggedBytes]:
    """Each column's stored values, where they lie in ``data``.

    Args:
        data: A whole shard.
        num_rows: How many rows it must hold.
        column_sizes: Bytes of each column's values; None where they vary.

    Raises:
        ValueError: if ``data`` is no shard with that many rows of such columns.
    """
    table = np.frombuffer(data, np.uint32, num_rows + 2)
    offsets = table[1:].astype(np.int64)
    if table[0] != num_rows or offsets[-1] != len(data) or (np.diff(offsets) < 0).any():
        raise ValueError("its table of rows does not match the file")
    variable = [column for column, size in enumerate(column_sizes) if not size]
    size_bytes = 4 * len(variable)
    if (np.diff(offsets) < size_bytes).any():
        raise ValueError("a row is too short")
    heads = RaggedBytes.within(data, offsets[:-1], np.full(num_rows, size_bytes))
    row_sizes = heads.to_array(np.uint32, (len(variable),)).astype(np.int64)

    start = offsets[:-1] + size_bytes
    spans = []
    for column, size in enumerate(column_sizes):
        sizes = np.full(num_rows, size) if size else row_sizes[:, variable.index(column)]
        spans.append((start, sizes))
        start = start + sizes
    if (start != offsets[1:]).any():
        raise ValueError("the columns of a row do not fill it")
    return [RaggedBytes.within(data, starts, sizes) for starts, sizes in spans]


def decode(encoding: str, values: RaggedBytes) -> Column:
    """A column of decoded values; encoded images stay encoded.

    Raises:
        ValueError: if a value is not of that encoding. ``streaming``, which decodes the less common
            encodings, raises other errors too.
    """
    if encoding in _UNDECODED:
        return values
    if encoding == "str":
        return [str(value, "utf-8") for value in values.views()]
    kind, _, form = encoding.partition(":")
    if encoding in _SCALARS:
        return values.to_array(_SCALARS[encoding])
    if kind == "ndarray" and ":" in form:
        dtype, _, shape = form.partition(":")
        return values.to_array(dtype, tuple(map(int, shape.split(","))))

    from streaming.base.format.mds.encodings import mds_decode

    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        column[row] = mds_decode(encoding, value)
        _check_formats(encoding, column[row])
    return column


def _check_formats(encoding: str, value: Any) -> None:
    """Refuse images of other formats than the column's; Pillow has not read their pixels yet."""
    for name, formats in _IMAGES.items():
        for image in (value if isinstance(value, list) else [value]) if name in encoding else []:
            if image.format not in formats:
                raise ValueError(f"{shown(encoding)} holds an image of format {image.format}")
