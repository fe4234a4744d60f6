"""In which order the rows of a data set are delivered, as a pure function of (seed, epoch).

Data sets are stored in *blocks* (an MDS shard, a Zarr chunk): reading a whole block is fast,
reading single rows of it is not. So the blocks are shuffled first, consecutive blocks are gathered
into *windows* of at least ``window_rows`` rows, and the rows of a window are shuffled among each
other. Every batch then mixes rows of several random blocks, and a super-batch of more. A block is
read once an epoch, unless streams are mixed and its stream is repeated.

The random keys are Philox words addressed by (seed, epoch, window). NumPy promises that these never
change; for ``Generator.permutation`` it makes no such promise. No random state is carried from one
window to the next, so any position can be reached without replaying what came before it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jest_loader.ragged import Int64Array

# Each draw has its own counter, (use, number). (_ORDER, 0) shuffles the blocks, (_ORDER, w + 1)
# the rows of window w; (_REPEATED, p) chooses the blocks of part p that are repeated once more.
_ORDER, _REPEATED = 0, 1


@dataclass(frozen=True)
class Part:
    """A stream among several: consecutive blocks, and how many rows of them an epoch has.

    Args:
        num_blocks: How many blocks.
        epoch_rows: Rows in an epoch. All rows come ``epoch_rows // rows`` times; the remainder is
            taken from other blocks in each epoch, if rows are shuffled.
    """

    num_blocks: int
    epoch_rows: int


@dataclass(frozen=True, eq=False)
class Window:
    """Rows that are shuffled among each other.

    Args:
        number: Place of the window in the epoch, from 0.
        blocks: Int64 [blocks], the blocks it holds, in the order drawn. A block may come twice
            where parts are repeated.
        rows: Int64 [blocks], how many rows of each block it holds: all, or a part of the last block
            of a repetition.
        firsts: Int64 [blocks], the first row that it holds of each block. Rows go on at row 0 after
            the block's last.
        start: Place of its first row in the epoch.
        stop: One past the place of its last row.
    """

    number: int
    blocks: Int64Array
    rows: Int64Array
    firsts: Int64Array
    start: int
    stop: int

    def locate(self, rows: Int64Array, block_rows: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Where some of its rows are stored.

        Args:
            rows: Int64 [n], rows of the window, counted through its blocks end to end.
            block_rows: Int64 [all blocks], the number of rows in each block of the data set.

        Returns:
            Int64 [n] each: at which place of ``blocks`` a row's block stands, and which row of that
            block it is.
        """
        ends = self.rows.cumsum()
        piece = np.searchsorted(ends, rows, side="right")
        row_of_piece = rows - (ends - self.rows)[piece]
        return piece, (self.firsts[piece] + row_of_piece) % block_rows[self.blocks[piece]]


@dataclass(frozen=True, eq=False)
class BlockOrder:
    """The order of the rows of blocks.

    Args:
        block_rows: Int64 [blocks], the number of rows in each block, all positive.
        shuffle: Whether to shuffle; without it rows come as stored.
        window_rows: The least number of rows in a window, unless the data set has fewer. A window
            ends with the block that reaches it; the last window also takes the remainder. Where
            nothing is shuffled, each block is a window.
        seed: Any number from 0 to 2**64 - 1.
        parts: All blocks, divided into streams; None for every row once.
    """

    block_rows: Int64Array
    shuffle: bool
    window_rows: int
    seed: int
    parts: tuple[Part, ...] | None = None

    @cached_property
    def num_rows(self) -> int:
        """Rows in an epoch."""
        if self.parts is None:
            return int(self.block_rows.sum())
        return sum(part.epoch_rows for part in self.parts)

    def windows(self, epoch: int) -> list[Window]:
        """The windows of an epoch, first to last."""
        blocks, rows, firsts = self._pieces(epoch)
        if self.shuffle:
            order = self._permutation(epoch, (_ORDER, 0), len(blocks))
            blocks, rows, firsts = blocks[order], rows[order], firsts[order]
        ends = rows.cumsum()
        lasts = self._lasts(ends.tolist())
        starts = [0, *lasts[:-1]]
        return [
            Window(
                number,
                blocks[first:last],
                rows[first:last],
                firsts[first:last],
                int(ends[first - 1]) if first else 0,
                int(ends[last - 1]),
            )
            for number, (first, last) in enumerate(zip(starts, lasts, strict=True))
        ]

    def rows(self, epoch: int, window: Window) -> Int64Array:
        """Int64 [rows]: the window's rows in delivery order, indices into its pieces end to end."""
        num_rows = window.stop - window.start
        if not self.shuffle:
            return np.arange(num_rows)
        return self._permutation(epoch, (_ORDER, window.number + 1), num_rows)

    def _pieces(self, epoch: int) -> tuple[Int64Array, Int64Array, Int64Array]:
        """An epoch's blocks, how many rows of each, and the first row of each, unshuffled."""
        if self.parts is None:
            blocks = np.arange(len(self.block_rows))
            return blocks, self.block_rows, np.zeros_like(blocks)
        pieces = []
        first_block = 0
        for number, part in enumerate(self.parts):
            blocks = np.arange(first_block, first_block + part.num_blocks)
            pieces.append(self._repeated(epoch, number, blocks, part.epoch_rows))
            first_block += part.num_blocks
        blocks, rows, firsts = (np.concatenate(found) for found in zip(*pieces, strict=True))
        return blocks, rows, firsts

    def _repeated(
        self, epoch: int, number: int, blocks: Int64Array, num_rows: int
    ) -> tuple[Int64Array, Int64Array, Int64Array]:
        """``num_rows`` rows of ``blocks``: all as often as they fit, then some once more."""
        if num_rows == 0:
            return blocks[:0], self.block_rows[:0], self.block_rows[:0]
        times, left = divmod(num_rows, int(self.block_rows[blocks].sum()))
        once_more = blocks
        if self.shuffle:
            once_more = blocks[self._permutation(epoch, (_REPEATED, number), len(blocks))]
        ends = self.block_rows[once_more].cumsum()
        once_more = once_more[: np.searchsorted(ends, left) + 1] if left else once_more[:0]
        chosen = np.concatenate([np.tile(blocks, times), once_more])
        rows = self.block_rows[chosen]
        firsts = np.zeros_like(rows)
        if left:
            whole = rows[-1]
            rows[-1] -= int(self.block_rows[once_more].sum()) - left
            if self.shuffle:  # Otherwise the last rows of a block would come less often.
                firsts[-1] = epoch * rows[-1] % whole
        return chosen, rows, firsts

    def _lasts(self, ends: list[int]) -> list[int]:
        """One past the last block of each window, given where each block ends in the epoch."""
        if not self.shuffle:
            return list(range(1, len(ends) + 1))  # nothing to mix, so hold one block at a time
        lasts, start = [], 0
        for block, end in enumerate(ends):
            if end - start >= self.window_rows:
                lasts.append(block + 1)
                start = end
        # The remainder joins the last window: alone it could be one block, mixed with no other.
        return [*lasts[:-1], len(ends)]

    def _permutation(self, epoch: int, use: tuple[int, int], size: int) -> Int64Array:
        # Philox would make float64 of a list with a large seed.
        key = np.array([self.seed, epoch], dtype=np.uint64)
        # In the upper words of the counter, which drawing never reaches.
        kind, number = use
        counter = np.array([0, number, kind, 0], dtype=np.uint64)
        words = np.random.Philox(key=key, counter=counter)
        return np.argsort(words.random_raw(size), kind="stable")
