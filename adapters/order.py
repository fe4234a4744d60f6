"""In which order the rows of a data set are delivered, as a pure function of (seed, epoch).

Data sets are stored in *blocks* (an MDS shard, a Zarr chunk): reading a whole block is fast,
reading single rows of it is not. So the blocks are shuffled first, consecutive blocks are gathered
into *windows* of at least ``window_rows`` rows, and the rows of a window are shuffled among each
other. Every batch then mixes rows of several random blocks, a super-batch mixes more of them, and
no block is read twice in an epoch.

The random keys are Philox words addressed by (seed, epoch, window): NumPy promises that they never
change, while it does not promise so for ``Generator.permutation``. Nothing is carried from one
window to the next, so any position can be reached without replaying what came before it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]

_BLOCK_STREAM = 0  # shuffles the blocks; window w shuffles its rows with stream w + 1


@dataclass(frozen=True, eq=False)
class Window:
    """Rows that are shuffled among each other.

    Args:
        number: Place of the window in the epoch, from 0.
        blocks: Int64 [blocks], the blocks it holds, in the order drawn.
        start: Place of its first row in the epoch.
        stop: One past the place of its last row.
    """

    number: int
    blocks: Int64Array
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class BlockOrder:
    """The order of the rows of blocks.

    Args:
        block_rows: Int64 [blocks], the number of rows in each block, all positive.
        shuffle: Whether to shuffle; without it rows come as stored.
        window_rows: The least number of rows a window holds, if there are so many; it holds fewer
            than twice that, rounded up to whole blocks.
        seed: Any number from 0 to 2**64 - 1.
    """

    block_rows: Int64Array
    shuffle: bool
    window_rows: int
    seed: int

    @cached_property
    def num_rows(self) -> int:
        """Rows in an epoch."""
        return int(self.block_rows.sum())

    def windows(self, epoch: int) -> list[Window]:
        """The windows of an epoch, first to last, which hold every block once."""
        num_blocks = len(self.block_rows)
        if self.shuffle:
            blocks = self._permutation(epoch, _BLOCK_STREAM, num_blocks)
        else:
            blocks = np.arange(num_blocks)
        ends = self.block_rows[blocks].cumsum()
        lasts = self._lasts(ends.tolist())
        firsts = [0, *lasts[:-1]]
        return [
            Window(
                number,
                blocks[first:last],
                int(ends[first - 1]) if first else 0,
                int(ends[last - 1]),
            )
            for number, (first, last) in enumerate(zip(firsts, lasts, strict=True))
        ]

    def rows(self, epoch: int, window: Window) -> Int64Array:
        """Int64 [rows]: the window's rows in delivery order, indices into its blocks end to end."""
        num_rows = window.stop - window.start
        if not self.shuffle:
            return np.arange(num_rows)
        return self._permutation(epoch, window.number + 1, num_rows)

    def _lasts(self, ends: list[int]) -> list[int]:
        """One past the last block of each window, given where each block ends in the epoch."""
        if not self.shuffle:
            return list(range(1, len(ends) + 1))  # nothing to mix, so hold one block at a time
        lasts, start = [], 0
        for block, end in enumerate(ends):
            if end - start >= self.window_rows:
                lasts.append(block + 1)
                start = end
        # The remainder joins the last window: alone it could be a single block, which mixes
        # nothing.
        return [*lasts[:-1], len(ends)]

    def _permutation(self, epoch: int, stream: int, size: int) -> Int64Array:
        # Lists with large seeds would go by way of float64.
        key = np.array([self.seed, epoch], dtype=np.uint64)
        # The stream number stands in a word of the counter that drawing never reaches.
        counter = np.array([0, stream, 0, 0], dtype=np.uint64)
        words = np.random.Philox(key=key, counter=counter)
        return np.argsort(words.random_raw(size), kind="stable")
