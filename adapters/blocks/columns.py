"""The columns of a batch: NumPy arrays, ``RaggedBytes``, and lists of str or bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jest_loader.checks import shown
from jest_loader.ragged import Int64Array, RaggedBytes

Column = NDArray[Any] | RaggedBytes | list[str] | list[bytes]
Columns = dict[str, Column]


@dataclass(frozen=True)
class Table:
    """Rows held as columns.

    Args:
        columns: Name to column, all of one length.
    """

    columns: Columns

    def take(self, rows: Int64Array) -> Columns:
        """See ``Rows``."""
        return {name: _take(column, rows) for name, column in self.columns.items()}


def choose_columns(
    available: Sequence[str], columns: Sequence[str] | None, path: object
) -> list[str]:
    """The columns to read, in the data set's order: ``columns``, or all if that is None.

    Raises:
        ValueError: if ``columns`` is empty, no list, or has a name that the data set has not.
    """
    if columns is None:
        return list(available)
    if isinstance(columns, str):
        raise ValueError(f"columns must be a list of names, got {columns!r}; use [{columns!r}]")
    given: object = columns
    if not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"columns must be a list of names or None, got {shown(repr(given))}")
    if not columns or set(columns) - set(available):
        raise ValueError(
            f"columns must be some of those in {path}, {shown(list(available), most=1000)}, got "
            f"{list(columns)}"
        )
    return [name for name in available if name in columns]


def join(parts: Sequence[Columns]) -> Columns:
    """The rows of all parts, one part after the other; a single part is returned itself."""
    if len(parts) == 1:
        return parts[0]
    return {name: join_column([part[name] for part in parts]) for name in parts[0]}


def join_column(columns: Sequence[Any]) -> Any:
    """One column with the rows of all, one column after the other."""
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    if isinstance(columns[0], RaggedBytes):
        return RaggedBytes.concat(columns)
    return [value for column in columns for value in column]


def _take(column: Column, rows: Int64Array) -> Any:
    if isinstance(column, np.ndarray):
        return column[rows]
    if isinstance(column, RaggedBytes):
        return column.take(rows)
    return [column[row] for row in rows.tolist()]
