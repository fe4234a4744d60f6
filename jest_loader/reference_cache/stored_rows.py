"""Stored values of examples, found by sample id."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jest_loader.batch import Batch
from jest_loader.ragged import Int64Array
from jest_loader.reference_cache.format import (
    FOLDS,
    Kind,
    Manifest,
    check_chunk_sizes,
    check_content,
    is_missing,
    read_manifest,
)
from jest_loader.reference_cache.held_files import Compare, HeldFiles
from jest_loader.reference_cache.identity import check_identity
from jest_loader.reference_cache.mapped_rows import MappedRows
from jest_loader.reference_cache.sample_index import SampleIndex, sample_ids


class Found(NamedTuple):
    """The stored values of a batch's examples.

    Args:
        ids: Int64 [B], the sample ids.
        columns: The values by column, a row for each example; NaN where it has none.
        skipped: Why examples have no values, by row of the batch, ascending.
    """

    ids: Int64Array
    columns: dict[str, NDArray[Any]]
    skipped: dict[int, str]


@dataclass(frozen=True)
class StoredRows:
    """Arrays of values whose rows belong to examples.

    Args:
        columns: The arrays by name, of one length.
        index: The row of each sample id.
        id_column: The column of batches that holds sample ids.
    """

    columns: Mapping[str, NDArray[Any] | MappedRows]
    index: SampleIndex
    id_column: str

    def rows_of(self, batch: Batch) -> Int64Array:
        """The row of each of the batch's examples, -1 for those that have none.

        Raises:
            ValueError: if the batch has no column of ids.
        """
        return self.index.find(sample_ids(batch, self.id_column))

    def look_up(self, batch: Batch) -> Found:
        """The values of the batch's examples.

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
        skipped = {
            row: "it is not in the reference cache"
            if unknown[row]
            else "the reference could not use it"
            for row in np.flatnonzero(missing).tolist()
        }
        return Found(ids, columns, skipped)


class OpenCache(NamedTuple):
    """A cache, mapped into memory.

    Args:
        manifest: What it holds.
        columns: The arrays of values by name.
        samples: The row of each sample id.
    """

    manifest: Manifest
    columns: dict[str, MappedRows]
    samples: SampleIndex


def open_cache(path: str | Path, kind: Kind, expect: Mapping[str, str] | None) -> OpenCache:
    """Map a cache into memory.

    Args:
        path: Its folder.
        kind: What it must hold.
        expect: What it must have been built from; None and what is not named may be anything.

    Raises:
        ValueError: if there is no whole cache at ``path``, or another one.
    """
    if (Path(path) / FOLDS).is_file():
        raise ValueError(
            f"the cache must be of one reference, but {path} is of several, which score in turn; "
            "open it with jest_loader.reference_cache.open_folds"
        )
    manifest = read_manifest(path)
    if manifest.kind != kind:
        reader = "CachedLosses" if manifest.kind == "loss" else "CachedReference"
        raise ValueError(
            f"the cache must hold {kind}, but {path} holds {manifest.kind}; open it with {reader}"
        )
    check_identity(path, manifest.identity, expect or {})
    files, forms = check_chunk_sizes(path, manifest), manifest.arrays()
    values = manifest.value_forms()

    def compare(name: str) -> Compare:
        checksums = manifest.checksums[name]
        return lambda number, content: check_content(
            path, files[name][number], content, checksums[number]
        )

    columns = {name: MappedRows(files[name], forms[name], compare(name)) for name in values}
    if not manifest.has_index:
        return OpenCache(manifest, columns, SampleIndex(manifest.num_rows))
    held = [
        HeldFiles(files[name], forms[name].chunk_bytes, compare(name))
        for name in ("index/id", "index/row")
    ]
    ids, rows = (one.mappings[0].numpy().view("<i8") for one in held)

    def check() -> None:
        for one in held:
            one.check([0])

    check()
    _check_index(path, ids, rows)
    return OpenCache(manifest, columns, SampleIndex(manifest.num_rows, ids, rows, check))


def _check_index(path: str | Path, ids: Int64Array, rows: Int64Array) -> None:
    """Raise ``ValueError`` unless ids ascend and each row has one."""
    has_id = np.zeros(len(rows), dtype=bool)
    is_fine = bool((ids[1:] > ids[:-1]).all()) and rows.min() >= 0 and rows.max() < len(rows)
    if is_fine:
        has_id[rows] = True
    if not has_id.all():
        raise ValueError(
            f"the index of the reference cache at {path} must hold ascending ids and each row "
            "once, but does not; build the cache again, with overwrite"
        )
