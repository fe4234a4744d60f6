"""The types a packed column can have, named as MDS names them, and the values they take."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_INTEGERS = {
    name: np.iinfo("int64" if name == "int" else name)
    for name in ("int", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
}
_FLOATS = ("float16", "float32", "float64")
_BYTES = ("bytes", "jpeg", "png")
KNOWN = f"str, {', '.join([*_BYTES, *_INTEGERS, *_FLOATS])}, ndarray:DTYPE:SHAPE or json"


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse columns of unknown types.

    Raises:
        ValueError: naming the column and the types there are.
    """
    if not columns:
        raise ValueError("a data set must have at least one column, got none")
    for name, encoding in columns.items():
        if not name or "/" in name:
            raise ValueError(f"a column must have a name without '/', got {name!r}; rename it")
        plain = encoding in {"str", "json", *_BYTES, *_INTEGERS, *_FLOATS}
        if not plain and not _is_array(encoding):
            raise ValueError(
                f"the type of column {name!r} must be one of {KNOWN}, got {encoding!r}"
            )


def array_form(encoding: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Dtype and row shape of a numeric column.

    Raises:
        ValueError: if ``encoding`` is not numeric.
    """
    if encoding in _INTEGERS or encoding in _FLOATS:
        return np.dtype("int64" if encoding == "int" else encoding), ()
    kind, dtype, shape = encoding.split(":")
    if kind != "ndarray" or not (dtype in _FLOATS or (dtype in _INTEGERS and dtype != "int")):
        raise ValueError(f"{encoding!r} is not numeric")
    sizes = tuple(int(size) for size in shape.split(","))
    if min(sizes) < 1:
        raise ValueError(f"{encoding!r} has no elements")
    return np.dtype(dtype), sizes


def checked_row(columns: Mapping[str, str], row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The row's values, as plain Python where they are not arrays.

    Nothing is converted silently: neither writer library minds an int that does not fit or a float
    where an int is due.

    Raises:
        ValueError: naming the row, the column, the type and the value.
    """
    if row.keys() != columns.keys():
        raise ValueError(
            f"row {number} must have the columns {sorted(columns)}, got {sorted(row)}; leave none "
            "out"
        )
    values = {}
    for name, encoding in columns.items():
        value = row[name].item() if isinstance(row[name], np.generic) else row[name]
        if not _fits(encoding, value):
            raise ValueError(
                f"column {name!r} of row {number} must be of type {encoding}, got {_shown(value)}; "
                "convert it first"
            )
        values[name] = value
    return values


def _fits(encoding: str, value: Any) -> bool:
    if encoding == "str":
        return isinstance(value, str)
    if encoding in _BYTES:
        return isinstance(value, bytes)
    if encoding in _INTEGERS:
        limits = _INTEGERS[encoding]
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and limits.min <= value <= limits.max
    if encoding in _FLOATS:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        with np.errstate(over="ignore"):
            return not math.isfinite(value) or bool(np.isfinite(np.dtype(encoding).type(value)))
    if encoding == "json":
        return not isinstance(value, bytes)
    dtype, shape = array_form(encoding)
    return isinstance(value, np.ndarray) and value.dtype == dtype and value.shape == shape


def _is_array(encoding: str) -> bool:
    try:
        array_form(encoding)
    except ValueError:
        return False
    return True


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and shape {value.shape}"
    return f"{str(value)[:80]!r} of type {type(value).__name__}"
