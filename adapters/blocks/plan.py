"""Which rows of an epoch make up the batches of a rank."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jest_loader.adapters.blocks.options import SourceOptions
from jest_loader.adapters.blocks.order import BlockOrder, Part
from jest_loader.adapters.blocks.reader import BlockReader
from jest_loader.ragged import Int64Array

_WINDOW_BATCHES = 4  # where the user does not say how many rows a window holds


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The batches of one rank, as a function of the epoch.

    The row at place p of an epoch is for rank ``p % num_ranks``.

    Args:
        reader: What is read.
        options: How its rows are put into batches.
        parts: All blocks, divided into streams; None for every row once.
        rank: Whose batches they are, from 0.
        num_ranks: How many ranks there are.

    Raises:
        ValueError: if there is no batch for each rank, or ``id_column`` is a column's name.
    """

    reader: BlockReader
    options: SourceOptions
    parts: tuple[Part, ...] | None = None
    rank: int = 0
    num_ranks: int = 1

    def __post_init__(self) -> None:
        names, id_column = self.reader.column_names, self.options.id_column
        if id_column in names:
            raise ValueError(
                f"id_column must not be a column of the data set, got {id_column!r}, one of "
                f"{list(names)}; give another id_column, or None to do without row ids"
            )
        if not self.num_batches or not self.num_examples:
            ranks = f" on each of {self.num_ranks} ranks" if self.num_ranks > 1 else ""
            raise ValueError(
                f"the data set must hold at least one batch, got {self.order.num_rows} rows and a "
                f"batch_size of {self.options.batch_size}{ranks}; use a smaller batch_size, or in "
                "code drop_last=False"
            )

    @cached_property
    def order(self) -> BlockOrder:
        """The order of an epoch's rows, the same on all ranks."""
        window_rows = self.options.window_rows or _WINDOW_BATCHES * self.batch_rows
        options = self.options
        return BlockOrder(
            self.reader.block_rows, options.shuffle, window_rows, options.seed, self.parts
        )

    @cached_property
    def block_starts(self) -> Int64Array:
        """Int64 [blocks]: the place of each block's first row in the data set."""
        return self.reader.block_rows.cumsum() - self.reader.block_rows

    @cached_property
    def batch_rows(self) -> int:
        """Rows that all ranks together take in a batch."""
        return self.options.batch_size * self.num_ranks

    @property
    def num_examples(self) -> int:
        """Rows of an epoch on the rank that has the fewest, those that ``drop_last`` drops too."""
        return self.order.num_rows // self.num_ranks

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        if self.options.drop_last:
            return self.order.num_rows // self.batch_rows
        return -(-self.order.num_rows // self.batch_rows)

    @cached_property
    def end(self) -> int:
        """One past the last place of an epoch that is delivered."""
        return min(self.num_batches * self.batch_rows, self.order.num_rows)

    def places(self, start: int, stop: int) -> range:
        """This rank's places in the epoch, from ``start`` to before ``stop`` and ``end``."""
        first = start + (self.rank - start) % self.num_ranks
        return range(first, min(stop, self.end), self.num_ranks)

    def identity(self) -> dict[str, Any]:
        """Everything that a position's meaning depends on, by the names that messages use."""
        mixed = {} if self.parts is None else {"mixture": [part.epoch_rows for part in self.parts]}
        return {
            "dataset": self.reader.fingerprint,
            "num_examples": self.order.num_rows,
            "rows of a block": int(self.reader.block_rows.max()),  # Of Zarr the columns decide.
            "batch size over all ranks": self.batch_rows,
            "drop_last": self.options.drop_last,
            "shuffle": self.options.shuffle,
            "window_rows": self.order.window_rows,
            "seed": self.options.seed,
            **mixed,
        }
