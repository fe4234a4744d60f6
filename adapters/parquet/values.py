"""Arrow's arrays as columns, and what is wrong with rows of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jest_loader.adapters.blocks.columns import Column
from jest_loader.adapters.parquet.column_kind import ColumnKind
from jest_loader.ragged import RaggedBytes

Reasons = dict[int, str]
"""Why rows cannot be used, by their place in the array; those that can are not there."""


def column_of(kind: ColumnKind, array: Any) -> tuple[Column, Reasons]:
    """The values of an array, neutral ones where there are none: "", zeros or no bytes.

    Images and bytes stay in Arrow's memory.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array.validate(full=True)
        array = array.dictionary_decode()
    nulls = _nulls(array)
    reasons = dict.fromkeys(np.flatnonzero(nulls).tolist(), "is null")
    if kind.form == "image":
        inner = array.field("bytes")
        empty = _nulls(inner)
        without = dict.fromkeys(np.flatnonzero(empty).tolist(), "has no bytes, at most a path")
        return _ragged(inner, nulls | empty), without | reasons
    if kind.form == "bytes":
        return _ragged(array, nulls), reasons
    if kind.form == "text":
        return _text(array, reasons), reasons
    if kind.width is None:
        return _numbers(array, nulls), reasons
    return _lists(array, kind.width, nulls, reasons), reasons


def _nulls(array: Any) -> NDArray[np.bool_]:
    nulls: NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return nulls


def _ragged(array: Any, nulls: NDArray[np.bool_]) -> RaggedBytes:
    import pyarrow as pa

    _, offsets, data = array.buffers()
    dtype = np.int64 if pa.types.is_large_binary(array.type) else np.int32
    ends = np.frombuffer(offsets, dtype)[array.offset :][: len(array) + 1].astype(np.int64)
    sizes = np.where(nulls, 0, np.diff(ends))
    return RaggedBytes.within(b"" if data is None else memoryview(data), ends[:-1], sizes)


def _text(array: Any, reasons: Reasons) -> list[str]:
    try:
        values = array.to_pylist()
    except UnicodeDecodeError:
        values = []
        for row, value in enumerate(array):
            try:
                values.append(value.as_py())
            except UnicodeDecodeError:
                values.append(None)
                reasons[row] = "is no text in UTF-8"
    return ["" if value is None else value for value in values]


def _numbers(array: Any, nulls: NDArray[np.bool_]) -> NDArray[Any]:
    import pyarrow as pa

    dtype = np.dtype(array.type.to_pandas_dtype())
    if dtype == np.bool_:
        array = array.cast(pa.uint8())  # Of bits.
    stored = np.frombuffer(array.buffers()[1], np.uint8 if dtype == np.bool_ else dtype)
    values = stored[array.offset :][: len(array)].astype(dtype)
    values[nulls] = 0
    return values


def _lists(array: Any, width: int, nulls: NDArray[np.bool_], reasons: Reasons) -> NDArray[Any]:
    items = array.values.slice(array.offset * width, len(array) * width)
    empty = _nulls(items)
    values = _numbers(items, empty).reshape(len(array), width)
    values[nulls] = 0
    for row in np.flatnonzero(empty.reshape(len(array), width).any(axis=1)).tolist():
        reasons.setdefault(row, "has an item that is null")
    return values
