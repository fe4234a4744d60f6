"""Reads whole tars as blocks: a window's tars are opened, and nothing of them is read."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jest_loader.adapters.blocks import Rows, Scratch
from jest_loader.adapters.tar.column_spec import column_specs
from jest_loader.adapters.tar.defaults import default_specs, forms
from jest_loader.adapters.tar.indexing import Indexed, Indexer
from jest_loader.adapters.tar.named_bytes import NamedBytes
from jest_loader.adapters.tar.rows import OpenShard, TarRows
from jest_loader.adapters.tar.shard import Shard
from jest_loader.ragged import Int64Array, RaggedBytes, Stored
from jest_loader.skipped import SKIP_REASON

# Smaller tars are read whole: a window may have more of them than may be open at once.
_LEAST_FILE_BYTES = 1 << 20


class TarShards:
    """Tars as blocks.

    Args:
        shards: The tars, in order.
        columns: What is read of them; None for what the first has of image and caption.
        index: A folder for the indexes; None for beside each tar.

    Raises:
        ValueError: if one is no whole tar of examples, or ``columns`` do not fit the first.
    """

    def __init__(
        self, shards: Sequence[Shard], columns: Mapping[str, str] | None, index: Path | None
    ) -> None:
        given = None if columns is None else column_specs(columns)
        self._indexer = Indexer(index)
        self._tars = self._indexer.all(shards)
        first = self._open(self._tars[0])
        self._specs = default_specs(first) if given is None else given
        self._forms = forms(self._specs, first)
        self.block_rows: Int64Array = np.array([tar.num_rows for tar in self._tars], np.int64)
        self.column_names = [spec.name for spec in self._specs] + [SKIP_REASON]
        self.fingerprint = self._digest(len(self._tars))

    def first_rows(self, num_rows: int) -> str:
        """A digest of the indexes of the tars that hold the first rows."""
        return self._digest(int(np.searchsorted(self.block_rows.cumsum(), num_rows)) + 1)

    def read(self, blocks: Int64Array, scratch: Scratch) -> Rows:
        """All rows of the given tars (int64 [n]), end to end."""
        return TarRows(
            self._specs, self._forms, [self._open(self._tars[block]) for block in blocks.tolist()]
        )

    def _digest(self, num_tars: int) -> str:
        digests = b"".join(tar.digest for tar in self._tars[:num_tars])
        return hashlib.blake2b(digests, digest_size=16).hexdigest()

    def _open(self, tar: Indexed) -> OpenShard:
        """A tar with its index, once it is known to be the one that was indexed."""
        data = tar.shard.open(in_part=False)
        index = self._indexer.again(tar, data)
        named = NamedBytes(data, index, tar.shard.name)
        is_small = len(data) < _LEAST_FILE_BYTES
        return OpenShard(tar.shard.name, index, _content(named) if is_small else named)


def _content(data: Stored) -> memoryview:
    """All bytes, in memory."""
    whole = RaggedBytes.within(data, np.zeros(1, np.int64), np.array([len(data)]))
    return whole.view(0)
