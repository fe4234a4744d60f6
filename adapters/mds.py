"""Reads MosaicML MDS shards from a local folder, in columns, without ``StreamingDataset``.

``streaming`` parses the index, decompresses and hashes; the bytes of a shard are taken apart here,
a column at a time. A shard is mapped, or decompressed in memory, and checked against its size and
hash in the index: the data set's folder is never written to and no cache is needed.
(``Stream.prepare_shard`` would decompress into the folder, and checks only what it downloads.)

What a row costs is a place in a table until it is delivered, and then what its column's type asks
for: numbers are gathered into one array, text is decoded, and encoded images stay where they are.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from jest_loader.adapters.blocks import BlockSource
from jest_loader.adapters.columns import Column, Columns, Rows, Scratch, choose_columns
from jest_loader.adapters.mds_file import ShardBytes, ShardFiles
from jest_loader.adapters.mds_shard import cells, decode
from jest_loader.adapters.order import Int64Array
from jest_loader.ragged import RaggedBytes

if TYPE_CHECKING:
    from streaming.base.format.mds.reader import MDSReader


class MdsSource(BlockSource):
    """Batches from a local folder of MDS shards.

    Scalars and ``ndarray`` columns of fixed dtype and shape come as NumPy arrays [batch, ...],
    ``str`` as a list of str, ``bytes``, ``jpeg`` and ``png`` undecoded as ``RaggedBytes``, every
    other encoding decoded by ``streaming`` as an object array [batch]. See ``BlockSource`` for
    epochs, shuffling and state.

    Uncompressed shards are mapped into memory: while a source or a batch of it is in use, replace a
    shard's file by renaming another over it or by deleting it, never by writing into it.

    Args:
        path: The folder that holds index.json.
        batch_size: Rows in a batch.
        shuffle: Whether to shuffle; otherwise rows come as stored.
        window_rows: The least number of rows to shuffle among each other; the shards that hold them
            are kept mapped, or in memory if they are compressed. None for four batches.
        seed: Chooses the order.
        columns: The columns to read; None for all.
        id_column: The name for each row's place in the data set (int64), or None to do without.
        drop_last: Whether to leave out the rows that do not fill a last batch.
        allow_pickle: Whether ``pkl`` columns may be read. **Reading them runs whatever code their
            author put there.**

    Raises:
        ValueError: if an argument is out of range, the folder holds no readable MDS index, or a
            ``pkl`` column would be read. While iterating: if a shard is not as the index describes
            it.
        FileNotFoundError: while iterating, if a shard is missing.
    """

    def __init__(  # noqa: PLR0913, the eight keywords a loader may have and the path
        self,
        path: str | PathLike[str],
        *,
        batch_size: int,
        shuffle: bool = True,
        window_rows: int | None = None,
        seed: int = 0,
        columns: Sequence[str] | None = None,
        id_column: str | None = "sample_id",
        drop_last: bool = True,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__(
            MdsShards(Path(path), columns, allow_pickle=allow_pickle),
            batch_size=batch_size,
            shuffle=shuffle,
            window_rows=window_rows,
            seed=seed,
            id_column=id_column,
            drop_last=drop_last,
        )


class MdsShards:
    """The shards of a data set as blocks.

    Args:
        path: The folder that holds index.json.
        columns: The columns to read; None for all.
        allow_pickle: Whether ``pkl`` columns may be read.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None, *, allow_pickle: bool) -> None:
        self._path = path
        self._files = ShardFiles(path)
        index = _load_index(path)
        # Empty shards hold nothing to deliver.
        self._shards = [shard for shard in _readers(path) if shard.samples]
        if not self._shards:
            raise ValueError(
                f"a data set must hold at least one row, but {path} holds none; write it again"
            )
        self._check_same_columns()
        names, encodings = self._shards[0].column_names, self._shards[0].column_encodings
        self._encodings = dict(zip(names, encodings, strict=True))
        self.column_names = choose_columns(names, columns, path)
        if not allow_pickle:
            self._refuse_pickle({name: self._encodings[name] for name in self.column_names})
        self.block_rows: Int64Array = np.array([shard.samples for shard in self._shards])
        text = json.dumps(index, sort_keys=True)
        self.fingerprint = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def read(self, blocks: Int64Array, scratch: Scratch) -> Rows:
        """All rows of some shards, end to end."""
        shards = [self._files.open(self._shards[block]) for block in blocks.tolist()]
        columns = [
            self._columns(self._shards[block], shard)
            for block, shard in zip(blocks.tolist(), shards, strict=True)
        ]
        return MdsRows(
            {name: self._encodings[name] for name in self.column_names},
            {
                name: RaggedBytes.concat([part[name] for part in columns])
                for name in self.column_names
            },
            shards,
            self.block_rows[blocks].cumsum(),
        )

    def _columns(self, reader: "MDSReader", shard: ShardBytes) -> dict[str, RaggedBytes]:
        try:
            found = cells(shard.data, reader.samples, reader.column_sizes)
        except ValueError as error:
            raise _not_decoded(shard, error) from error
        return dict(zip(reader.column_names, found, strict=True))

    def _name(self, shard: "MDSReader") -> str:
        return str(self._path / (shard.zip_data or shard.raw_data).basename)

    def _check_same_columns(self) -> None:
        first = self._shards[0]
        for shard in self._shards:
            expected = list(zip(first.column_names, first.column_encodings, strict=True))
            found = list(zip(shard.column_names, shard.column_encodings, strict=True))
            if found != expected:
                raise ValueError(
                    f"all shards must have the same columns, but {self._name(first)} has "
                    f"{expected} and {self._name(shard)} has {found}; make them two data sets"
                )

    def _refuse_pickle(self, encodings: dict[str, str]) -> None:
        from streaming.base.format.mds.encodings import is_mds_encoding_safe

        unsafe = [
            name for name, encoding in encodings.items() if not is_mds_encoding_safe(encoding)
        ]
        if unsafe:
            raise ValueError(
                f"columns must not hold pickles, which run code when read, but {unsafe} of "
                f"{self._path} do; leave them out with columns=[...], or pass allow_pickle=True if "
                "you trust whoever wrote them"
            )


@dataclass(frozen=True)
class MdsRows:
    """Rows of shards, decoded when they are taken.

    Args:
        encodings: Name to MDS encoding.
        values: Name to the column's values as they are stored.
        shards: Where they lie.
        ends: Int64 [shards], how many of the rows lie in that shard or one before it.
    """

    encodings: dict[str, str]
    values: dict[str, RaggedBytes]
    shards: list[ShardBytes]
    ends: Int64Array

    def take(self, rows: Int64Array) -> Columns:
        """See ``Rows``."""
        for shard in self.shards:
            shard.check_not_cut()
        return {
            name: self._column(self.encodings[name], values.take(rows), rows)
            for name, values in self.values.items()
        }

    def _column(self, encoding: str, values: RaggedBytes, rows: Int64Array) -> Column:
        try:
            column = decode(encoding, values)
        except (ValueError, KeyError, IndexError, OSError) as error:
            if len(rows) == 1:
                shard = self.shards[np.searchsorted(self.ends, rows[0], side="right")]
                raise _not_decoded(shard, error) from error
            for row in range(len(rows)):  # to find the shard to name
                self._column(encoding, values[row : row + 1], rows[row : row + 1])
            raise
        if isinstance(column, RaggedBytes) and not all(shard.is_mapped for shard in self.shards):
            # Views of a decompressed shard would hold all of it in memory.
            return column.copy()
        return column


def _not_decoded(shard: ShardBytes, error: Exception) -> ValueError:
    return ValueError(f"{shard.path} cannot be decoded: {error!r}; fetch it again")


def _load_index(path: Path) -> dict[str, Any]:
    """The parsed index.json, once it is known to be one that ``streaming`` can make readers of."""
    index_path = path / "index.json"
    if not index_path.is_file():
        raise ValueError(
            f"path must be a local folder with an MDS index.json, got {str(path)!r}; for shards "
            "kept elsewhere, copy the folder here first"
        )
    try:
        index = json.loads(index_path.read_text(encoding="utf-8"))
        shards = [(info["format"], info["raw_data"], info["zip_data"]) for info in index["shards"]]
        version = index["version"]
        files = [file["basename"] for _, *pair in shards for file in pair if file]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index_path} is not an MDS index: {error!r}; fetch it again") from error
    formats = {format_ for format_, *_ in shards}
    if version != 2 or formats - {"mds"}:
        raise ValueError(
            f"{index_path} must list MDS shards of version 2, got version {version} and "
            f"{sorted(formats)}; write the data set again with MDSWriter"
        )
    outside = [
        name for name in files if PurePosixPath(name).is_absolute() or ".." in Path(name).parts
    ]
    if outside:
        raise ValueError(
            f"{index_path} must name files inside its folder, got {outside}; do not use an index "
            "from a source that you do not trust"
        )
    return dict(index)


def _readers(path: Path) -> list["MDSReader"]:
    """One of ``streaming``'s readers for each shard."""
    try:
        from streaming import Stream
    except ModuleNotFoundError as error:
        if error.name != "streaming":
            raise
        raise ModuleNotFoundError(
            "reading MDS shards needs mosaicml-streaming; pip install 'jest-loader[mds]'",
            name="streaming",
        ) from error
    from streaming.base.format.mds.reader import MDSReader
    from streaming.base.world import World

    stream = Stream(local=str(path))
    stream.apply_default(
        {
            "split": None,
            "download_retry": 1,
            "download_timeout": 60,
            "validate_hash": None,
            "keep_zip": True,
        }
    )
    try:
        # Pickles are refused by MdsShards, which also lets a user leave their columns out.
        readers = stream.get_shards(World(1, 1, 1, 0), allow_unsafe_types=True)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(
            f"{path / 'index.json'} is not an MDS index: {error!r}; fetch it again"
        ) from error
    return [reader for reader in readers if isinstance(reader, MDSReader)]
