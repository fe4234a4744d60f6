"""Stored rows, found by sample id."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from jest_loader.reference_cache.format import (
    Kind,
    Manifest,
    check_chunk_sizes,
    check_identity,
    is_missing,
    read_manifest,
)
from jest_loader.reference_cache.mapped_rows import MappedRows

Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class SampleIndex:
    """Where the row of each sample is.

    Args:
        num_rows: Rows there are.
        ids: Int64 [rows], the sample ids, ascending; None if the ids are the rows.
        rows: Int64 [rows], the row of each of ``ids``.
    """

    num_rows: int
    ids: Int64Array | None = None
    rows: Int64Array | None = None

    @classmethod
    def of(cls, ids: Int64Array) -> "SampleIndex":
        """The index of rows whose sample ids are ``ids``.

        Raises:
            ValueError: if an id comes twice.
        """
        if np.array_equal(ids, np.arange(len(ids))):
            return cls(len(ids))
        rows = np.argsort(ids, kind="stable")
        ascending = ids[rows]
        twice = ascending[1:][ascending[1:] == ascending[:-1]]
        if len(twice) > 0:
            raise ValueError(
                f"each sample must come once, but {len(np.unique(twice))} came again (first "
                f"{int(twice[0])}); read one epoch, without replacement"
            )
        return cls(len(ids), ascending, rows)

    @classmethod
    def of_rows(cls, ids: NDArray[Any] | Tensor | None, num_rows: int) -> "SampleIndex":
        """The index of ``num_rows`` rows, whose ids may be given.

        Raises:
            ValueError: if the ids are no whole numbers, one for each row, or one comes twice.
        """
        if ids is None:
            return cls(num_rows)
        given = np.asarray(ids)
        if given.shape != (num_rows,) or given.dtype.kind not in "iu":
            raise ValueError(
                f"ids must be whole numbers of shape ({num_rows},), one for each row, got "
                f"{given.dtype} of {given.shape}"
            )
        return cls.of(given.astype(np.int64, copy=False))

    def find(self, ids: Int64Array) -> Int64Array:
        """The row of each id, -1 for those that have none."""
        if self.ids is None or self.rows is None:
            return np.where((ids >= 0) & (ids < self.num_rows), ids, -1)
        place = np.searchsorted(self.ids, ids).clip(max=self.num_rows - 1)
        return np.where(self.ids[place] == ids, self.rows[place], -1)


class Found(NamedTuple):
    """The stored values of a batch's examples.

    Args:
        ids: Int64 [B], the sample ids.
        columns: The values by column, a row for each example; NaN where it has none.
        skipped: Why examples have no values, by row of the batch.
    """

    ids: Int64Array
    columns: dict[str, NDArray[Any]]
    skipped: dict[int, str]


@dataclass(frozen=True)
class StoredRows:
    """Arrays of values whose rows belong to samples.

    Args:
        columns: The arrays by name, of one length.
        index: Where each sample's row is.
        id_column: The column of batches that holds sample ids.
    """

    columns: Mapping[str, NDArray[Any] | MappedRows]
    index: SampleIndex
    id_column: str

    def look_up(self, batch: Any) -> Found:
        """The rows of the batch's samples.

        Raises:
            ValueError: if the batch has no column of ids.
        """
        ids = sample_ids(batch, self.id_column)
        rows = self.index.find(ids)
        unknown = rows < 0
        some_unknown = bool(unknown.any())
        there = rows.clip(min=0) if some_unknown else rows
        columns = {name: stored[there] for name, stored in self.columns.items()}
        if some_unknown:
            for values in columns.values():
                values[unknown] = np.nan
        missing = is_missing(next(iter(columns.values())))
        skipped = dict.fromkeys(np.flatnonzero(missing).tolist(), "the reference could not use it")
        skipped |= dict.fromkeys(
            np.flatnonzero(unknown).tolist(), "it is not in the reference cache"
        )
        return Found(ids, columns, skipped)


def open_rows(
    path: str | Path, kind: Kind, expect: Mapping[str, str], id_column: str
) -> tuple[Manifest, StoredRows]:
    """A cache's manifest and its rows, mapped.

    Args:
        path: Its folder.
        kind: What it must hold.
        expect: What it must have been built from.
        id_column: The column of batches that holds sample ids.

    Raises:
        ValueError: if there is no whole cache at ``path``, or another one.
    """
    manifest = read_manifest(path)
    if manifest.kind != kind:
        reader = "CachedLosses" if manifest.kind == "loss" else "CachedReference"
        raise ValueError(
            f"the cache must hold {kind}, but {path} holds {manifest.kind}; open it with {reader}"
        )
    check_identity(path, manifest.identity, expect)
    files, forms = check_chunk_sizes(path, manifest), manifest.arrays()
    values = ("loss",) if kind == "loss" else ("image", "text")
    columns = {name: MappedRows(files[name], forms[name]) for name in values}
    index = SampleIndex(manifest.num_rows)
    if manifest.has_index:
        ids, rows = (
            np.memmap(files[name][0], dtype=forms[name].dtype, mode="r")
            for name in ("index/id", "index/row")
        )
        index = SampleIndex(manifest.num_rows, ids, rows)
    return manifest, StoredRows(columns, index, id_column)


def sample_ids(batch: Any, column: str) -> Int64Array:
    """The batch's column of sample ids, int64 [B].

    Raises:
        ValueError: if there is no such column, or it holds anything else.
    """
    try:
        found = batch[column]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"a reference cache finds samples by id, but the batch has no column {column!r}; "
            "add the sample's number to it, or pass id_column"
        ) from error
    ids = np.asarray(found.cpu() if isinstance(found, Tensor) else found)
    if ids.dtype.kind not in "iu" or ids.ndim != 1:
        raise ValueError(
            f"sample ids must be one whole number per example, got {ids.dtype} of {ids.shape}"
        )
    return ids.astype(np.int64, copy=False)
