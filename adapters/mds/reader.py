"""Reads whole MDS shards, in columns, without ``StreamingDataset``.

``streaming`` parses the index, fetches, decompresses and hashes; the bytes of a shard are taken
apart here, a column at a time. A shard is opened, or decompressed in memory, and checked against
its size and hash in the index: a local data set's folder is never written to.
(``Stream.prepare_shard`` would decompress into the folder, and checks only what it downloads.)

Until it is delivered, a row costs a few numbers in memory. Then its numbers and text are read and
decoded, and encoded images stay where they are.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jest_loader.adapters.blocks import Rows, Scratch
from jest_loader.adapters.blocks.columns import choose_columns
from jest_loader.adapters.blocks.order import Part
from jest_loader.adapters.blocks.threads import map_in_threads
from jest_loader.adapters.mds.folder import ShardFolder
from jest_loader.adapters.mds.rows import MdsRows, StoredColumn
from jest_loader.adapters.mds.shard import stored_rows, table_bytes
from jest_loader.adapters.mds.shard_bytes import ShardBytes
from jest_loader.adapters.mds.stream import MdsStream
from jest_loader.checks import shown
from jest_loader.ragged import Int64Array, RaggedBytes

if TYPE_CHECKING:
    from streaming.base.format.mds.reader import MDSReader


class _Shard(NamedTuple):
    reader: "MDSReader"
    folder: ShardFolder

    @property
    def name(self) -> str:
        return str(self.folder.path / (self.reader.zip_data or self.reader.raw_data).basename)


class MdsShards:
    """The shards of a data set as blocks.

    Args:
        streams: Where they are.
        columns: The columns to read; None for all.
        allow_pickle: Whether ``pkl`` columns may be read.
    """

    def __init__(
        self, streams: Sequence[MdsStream], columns: Sequence[str] | None, *, allow_pickle: bool
    ) -> None:
        locals_ = [str(stream.local) for stream in streams if stream.local is not None]
        if len(set(locals_)) < len(locals_):
            raise ValueError(
                f"each stream must have a local folder of its own, got {locals_}; shards of the "
                "same name would be taken for each other"
            )
        self._folders = folders = [ShardFolder(stream) for stream in streams]
        self._shards = [_Shard(reader, folder) for folder in folders for reader in folder.shards]
        where = ", ".join(str(folder.path) for folder in folders)
        if not self._shards:
            raise ValueError(
                f"a data set must hold at least one row, but {where or 'an empty list'} holds "
                "none; write it again"
            )
        self._check_same_columns()
        stored = _columns_of(self._shards[0])
        self.column_names = choose_columns([name for name, *_ in stored], columns, where)
        self._columns = [
            StoredColumn(name, encoding, size, name in self.column_names)
            for name, encoding, size in stored
        ]
        if not allow_pickle:
            self._refuse_pickle(where)
        self.block_rows: Int64Array = np.array([shard.reader.samples for shard in self._shards])
        self.parts = _parts(folders)
        indices = [folder.index for folder in folders]
        text = json.dumps(indices[0] if len(indices) == 1 else indices, sort_keys=True)
        self.fingerprint = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        fetched = [folder.num_threads for folder in folders if folder.stream.local is not None]
        self._num_threads = min(fetched, default=1)

    def first_rows(self, num_rows: int) -> str:
        """A digest of what the index says of the shards that hold the first rows."""
        listed = [shard for folder in self._folders for shard in folder.index["shards"]]
        described = [shard for shard in listed if shard["samples"]]
        num_shards = int(np.searchsorted(self.block_rows.cumsum(), num_rows)) + 1
        text = json.dumps(described[:num_shards], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def read(self, blocks: Int64Array, scratch: Scratch) -> Rows:
        """All rows of the given shards (int64 [n]), end to end."""
        chosen = [self._shards[block] for block in blocks.tolist()]
        opened = self._opened(chosen)
        rows = [_rows(shard.reader, data) for shard, data in zip(chosen, opened, strict=True)]
        return MdsRows(
            self._columns, RaggedBytes.concat(rows), opened, self.block_rows[blocks].cumsum()
        )

    def _opened(self, shards: list[_Shard]) -> list[ShardBytes]:
        def open_one(shard: _Shard) -> ShardBytes:
            return shard.folder.files.open(shard.reader)

        return map_in_threads(open_one, shards, self._num_threads)

    def _check_same_columns(self) -> None:
        first, *others = self._shards
        expected = _columns_of(first)
        for shard in others:
            if _columns_of(shard) != expected:
                raise ValueError(
                    f"all shards must have the same columns, but {first.name} has "
                    f"{shown(expected)} and {shard.name} has {shown(_columns_of(shard))}; make "
                    "them two data sets"
                )

    def _refuse_pickle(self, where: str) -> None:
        from streaming.base.format.mds.encodings import is_mds_encoding_safe

        unsafe = [
            column.name
            for column in self._columns
            if column.is_chosen and not is_mds_encoding_safe(column.encoding)
        ]
        if unsafe:
            raise ValueError(
                f"columns must not hold pickles, which run code when read, but {shown(unsafe)} of "
                f"{where} do; leave them out with columns=[...], or pass allow_pickle=True if "
                "you trust whoever wrote them"
            )


def _columns_of(shard: _Shard) -> list[tuple[str, str, int | None]]:
    """The name, the encoding and the size of each."""
    reader = shard.reader
    described = reader.column_names, reader.column_encodings, reader.column_sizes
    return list(zip(*described, strict=True))


def _rows(reader: "MDSReader", shard: ShardBytes) -> RaggedBytes:
    table = shard.head(table_bytes(reader.samples))
    try:
        return stored_rows(shard.data, table, reader.samples, reader.column_sizes)
    except ValueError as error:
        raise shard.not_decoded(error) from error


def _parts(folders: Sequence[ShardFolder]) -> tuple[Part, ...] | None:
    """How many rows an epoch has of each stream, by their proportions; None if they have none."""
    proportions = [folder.stream.proportion for folder in folders]
    given = [proportion for proportion in proportions if proportion is not None]
    if not given:
        return None
    if len(given) < len(folders):
        raise ValueError(
            f"either all streams have a proportion or none has, got {proportions}; give the others "
            "one too"
        )
    rows = [sum(shard.samples for shard in folder.shards) for folder in folders]
    ends = [round(sum(rows) * upto / sum(given)) for upto in np.cumsum(given).tolist()]
    epoch_rows = np.diff([0, *ends]).tolist()
    for folder, have, want in zip(folders, rows, epoch_rows, strict=True):
        if want and not have:
            raise ValueError(
                f"a stream with a proportion must hold at least one row, but {folder.path} holds "
                "none; remove it from the list"
            )
    return tuple(
        Part(len(folder.shards), want) for folder, want in zip(folders, epoch_rows, strict=True)
    )
