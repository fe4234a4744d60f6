"""Rows of MDS shards, not yet decoded."""

from dataclasses import dataclass

import numpy as np

from jest_loader.adapters.blocks.columns import Column, Columns
from jest_loader.adapters.mds.shard import decode
from jest_loader.adapters.mds.shard_bytes import ShardBytes
from jest_loader.ragged import Int64Array, RaggedBytes


@dataclass(frozen=True)
class MdsRows:
    """The rows of some shards, end to end, which ``take`` decodes.

    Args:
        encodings: Column name to MDS encoding.
        values: Column name to stored values.
        shards: Where they lie.
        ends: Int64 [shards], one past the last row of each shard.
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
        except Exception as error:  # Decoders of foreign bytes may raise anything.
            if len(rows) == 1:
                shard = self.shards[np.searchsorted(self.ends, rows[0], side="right")]
                raise shard.not_decoded(error) from error
            for row in range(len(rows)):  # one by one, to find the shard that the message names
                self._column(encoding, values[row : row + 1], rows[row : row + 1])
            raise
        if isinstance(column, RaggedBytes) and not all(shard.is_mapped for shard in self.shards):
            # Views of a decompressed shard would hold all of it in memory.
            return column.copy()
        return column
