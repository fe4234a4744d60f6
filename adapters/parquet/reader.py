"""Reads row groups of Parquet files as blocks."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jest_loader.adapters.blocks import Rows, Scratch, Table
from jest_loader.adapters.blocks.columns import Columns, choose_columns, join
from jest_loader.adapters.blocks.threads import map_in_threads
from jest_loader.adapters.parquet.column_kind import ColumnKind
from jest_loader.adapters.parquet.footer import Footer, read_footer
from jest_loader.adapters.parquet.opened import check_pyarrow
from jest_loader.adapters.parquet.row_group import read_row_group
from jest_loader.checks import shown
from jest_loader.ragged import Int64Array
from jest_loader.skipped import SKIP_REASON

_FOOTER_THREADS, _READ_THREADS = 8, 2


class ParquetFiles:
    """Row groups of files as blocks.

    Args:
        paths: The files, in order.
        columns: The columns to read; None for all that can be.

    Raises:
        ValueError: if a file cannot be read, or its columns are not those of the first.
        ModuleNotFoundError: if pyarrow is not installed.
    """

    def __init__(self, paths: Sequence[Path], columns: Sequence[str] | None) -> None:
        check_pyarrow()
        import pyarrow.parquet  # noqa: F401 - not by several threads at once

        self._footers = map_in_threads(read_footer, paths, _FOOTER_THREADS)
        self._kinds = _chosen(self._footers[0], columns)
        for footer in self._footers[1:]:
            _check_alike(footer, self._footers[0], self._kinds)
        self.block_rows: Int64Array = np.concatenate([footer.rows for footer in self._footers])
        self._first_blocks = np.cumsum([0, *(len(footer.rows) for footer in self._footers)])
        self.column_names = [*self._kinds, SKIP_REASON]
        self.fingerprint = self._digest(len(self._footers))

    def first_rows(self, num_rows: int) -> str:
        """A digest of the footers of the files that hold the first rows."""
        ends = np.cumsum([int(footer.rows.sum()) for footer in self._footers])
        return self._digest(int(np.searchsorted(ends, num_rows)) + 1)

    def read(self, blocks: Int64Array, scratch: Scratch) -> Rows:
        """All rows of the given row groups (int64 [n]), end to end."""
        return Table(join(map_in_threads(self._read, blocks.tolist(), _READ_THREADS)))

    def _read(self, block: int) -> Columns:
        number = int(np.searchsorted(self._first_blocks, block, side="right")) - 1
        first = int(self._first_blocks[number])
        return read_row_group(self._footers[number], block - first, self._kinds)

    def _digest(self, num_files: int) -> str:
        digests = b"".join(footer.digest for footer in self._footers[:num_files])
        return hashlib.blake2b(digests, digest_size=16).hexdigest()


def _chosen(footer: Footer, columns: Sequence[str] | None) -> dict[str, ColumnKind]:
    """The columns that are read, and as what."""
    known = footer.kinds
    if columns is None:
        readable = {name: kind for name, kind in known.items() if isinstance(kind, ColumnKind)}
        readable.pop(SKIP_REASON, None)
        if not readable:
            raise ValueError(
                f"{shown(footer.path)} must have a column that can be read (image structs, bytes, "
                f"text, numbers, lists of a fixed number of numbers), but has {shown(known)}"
            )
        return readable
    chosen = {}
    for name in choose_columns(list(known), columns, shown(footer.path)):
        kind = known[name]
        if name == SKIP_REASON:
            raise ValueError(
                f"a column must not be named {SKIP_REASON!r}, which says why rows are skipped; "
                "leave it out of columns"
            )
        if isinstance(kind, str):
            raise ValueError(
                f"column {shown(name)!r} of {shown(footer.path)} must hold image structs, bytes, "
                f"text, numbers, or lists of a fixed number of numbers, but is {kind}; leave it "
                "out of columns"
            )
        chosen[name] = kind
    return chosen


def _check_alike(footer: Footer, first: Footer, kinds: dict[str, ColumnKind]) -> None:
    for name, kind in kinds.items():
        found = footer.kinds.get(name)
        if found != kind:
            got = f"no column {shown(name)!r}" if found is None else f"{shown(name)!r} of {found}"
            raise ValueError(
                f"all files must have the same columns, but {shown(first.path)} has "
                f"{shown(name)!r} of {kind} and {shown(footer.path)} has {got}; read them as "
                "several sources, or choose other columns"
            )
