"""Columns, as a source reads and delivers them: NumPy arrays, or lists of str or bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jest_loader.adapters.order import Int64Array

Column = NDArray[Any] | list[str] | list[bytes]
Columns = dict[str, Column]


def choose_columns(
    available: Sequence[str], columns: Sequence[str] | None, path: object
) -> list[str]:
    """``columns``, checked, in the data set's order; all that are available if None."""
    if columns is None:
        return list(available)
    if isinstance(columns, str):
        raise ValueError(f"columns must be a list of names, got {columns!r}; use [{columns!r}]")
    unknown = sorted(set(columns) - set(available))
    if unknown or not columns:
        raise ValueError(
            f"columns must be some of those in {path}, {list(available)}, got {list(columns)}"
        )
    return [name for name in available if name in columns]


def join(parts: Sequence[Columns]) -> Columns:
    """The rows of all parts, in that order; the parts themselves if there is but one."""
    if len(parts) == 1:
        return parts[0]
    return {name: _join_column([part[name] for part in parts]) for name in parts[0]}


def _join_column(columns: Sequence[Any]) -> Any:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return [value for column in columns for value in column]


def take(column: Column, rows: Int64Array) -> Any:
    """A copy of the given rows of a column."""
    if isinstance(column, np.ndarray):
        return column[rows]
    return [column[row] for row in rows.tolist()]
