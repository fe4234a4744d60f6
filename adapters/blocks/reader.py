"""What a data format has to offer for a source to be made of it."""

from collections.abc import Sequence
from typing import Protocol

from jest_loader.adapters.blocks.columns import Columns
from jest_loader.adapters.blocks.scratch import Scratch
from jest_loader.ragged import Int64Array


class Rows(Protocol):
    """Rows that were read and not yet delivered, in the form that is cheapest for the format."""

    def take(self, rows: Int64Array) -> Columns:
        """The given rows (int64 [n]), in that order, as columns in memory of their own.

        Encoded images may stay where they are, as ``RaggedBytes``.
        """
        ...


class BlockReader(Protocol):
    """Reads whole blocks of a data set; what ``read`` returns depends on its arguments alone."""

    @property
    def block_rows(self) -> Int64Array:
        """Int64 [blocks]: the number of rows in each block."""
        ...

    @property
    def column_names(self) -> Sequence[str]:
        """The columns of the rows that ``read`` returns, in that order."""
        ...

    @property
    def fingerprint(self) -> str:
        """A digest that changes when the data set does."""
        ...

    def first_rows(self, num_rows: int) -> str:
        """A digest of the first rows, which stays the same when rows are appended.

        Of a format that cannot tell it is a digest of all rows.
        """
        ...

    def read(self, blocks: Int64Array, scratch: Scratch) -> Rows:
        """All rows of the given blocks (int64 [n], distinct), end to end, each in stored order.

        They may lie in ``scratch``, which the next call overwrites.
        """
        ...
