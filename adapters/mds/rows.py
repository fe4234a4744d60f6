"""Rows of MDS shards, not yet decoded."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from jest_loader.adapters.blocks.columns import Columns
from jest_loader.adapters.mds.shard import UNDECODED, decode, head_bytes, spans
from jest_loader.adapters.mds.shard_bytes import ShardBytes
from jest_loader.ragged import Int64Array, RaggedBytes

_BEGIN_BYTES = 2048


class StoredColumn(NamedTuple):
    """A column as shards have it.

    Args:
        name: Its name.
        encoding: Its MDS encoding.
        size: Bytes of each value; None where they vary.
        is_chosen: Whether it is read.
    """

    name: str
    encoding: str
    size: int | None
    is_chosen: bool


@dataclass(frozen=True)
class MdsRows:
    """The rows of some shards, end to end, which ``take`` reads and decodes.

    Args:
        columns: All columns, in the order that they have in a row.
        rows: Whole rows as they are stored.
        shards: Where they lie.
        ends: Int64 [shards], one past the last row of each shard.
    """

    columns: Sequence[StoredColumn]
    rows: RaggedBytes
    shards: list[ShardBytes]
    ends: Int64Array

    def take(self, rows: Int64Array) -> Columns:
        """See ``Rows``."""
        values = self._values(rows)
        return {
            column.name: self._named(rows, partial(decode, column.encoding), values[column.name])
            for column in self.columns
            if column.is_chosen
        }

    def _values(self, rows: Int64Array) -> dict[str, RaggedBytes]:
        """The chosen columns as stored; in memory, but for large values that are delivered so."""
        stored = self.rows.take(rows)
        in_files = not any(shard.in_memory for shard in self.shards)
        sizes = [column.size for column in self.columns]
        begun, start, head = stored, np.zeros_like(rows), head_bytes(sizes)
        if in_files:  # Often all but images is in what a row begins with, read in one call.
            begun = stored.parts(start, stored.sizes.clip(max=max(head, _BEGIN_BYTES))).copy()
        heads = begun.parts(start, np.full_like(rows, head))
        places = self._named(rows, partial(spans, sizes), heads, stored.sizes)
        values = {}
        for stays, columns in self._groups():
            start, last = places[columns[0]].starts, places[columns[-1]]
            end = last.starts + last.sizes
            if (end <= begun.sizes).all():
                together = begun.parts(start, end - start)
            else:
                together = stored.parts(start, end - start)
                if not stays:
                    together = together.copy()
            if stays and not in_files:  # Views would hold all of a shard in memory.
                together = together.copy()
            for number in columns:
                place = places[number]
                values[self.columns[number].name] = together.parts(
                    place.starts - start, place.sizes
                )
        return values

    def _groups(self) -> Iterator[tuple[bool, list[int]]]:
        """Chosen columns that lie side by side, and whether their values stay as they are."""
        kinds = [(column.is_chosen, column.encoding in UNDECODED) for column in self.columns]
        for (is_chosen, stays), numbers in groupby(range(len(kinds)), key=kinds.__getitem__):
            if is_chosen:
                yield stays, list(numbers)

    def _named(self, rows: Int64Array, function: Callable[..., Any], *columns: Any) -> Any:
        """``function`` of values of ``rows``; if it fails, the error names the shard."""
        try:
            return function(*columns)
        except Exception as error:  # Decoders of foreign bytes may raise anything.
            if len(rows) == 1:
                shard = self.shards[np.searchsorted(self.ends, rows[0], side="right")]
                raise shard.not_decoded(error) from error
            for row in range(len(rows)):  # one by one, to find the shard that the message names
                one = slice(row, row + 1)
                self._named(rows[one], function, *(column[one] for column in columns))
            raise
