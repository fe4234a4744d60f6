"""Reading what a rank needs of a window."""

from dataclasses import dataclass

import numpy as np

from jest_loader.adapters.blocks.columns import Columns
from jest_loader.adapters.blocks.order import Window
from jest_loader.adapters.blocks.plan import BatchPlan
from jest_loader.adapters.blocks.reader import Rows
from jest_loader.adapters.blocks.scratch import Scratch
from jest_loader.ragged import Int64Array


@dataclass(frozen=True, eq=False)
class LoadedWindow:
    """Rows of a window that are read and not yet delivered.

    Args:
        window: Which window.
        places: Their places in the epoch.
        ids: Int64 [places], the place of each in the data set.
        indices: Int64 [places], which of ``rows`` each is.
        rows: All rows of the blocks that hold them, in stored order.
    """

    window: Window
    places: range
    ids: Int64Array
    indices: Int64Array
    rows: Rows

    def take(self, places: range, id_column: str | None) -> Columns:
        """The rows at ``places``, a contiguous part of ``self.places``."""
        first = self.places.index(places[0])
        last = first + len(places)
        columns = self.rows.take(self.indices[first:last])
        if id_column is not None:
            columns[id_column] = self.ids[first:last].copy()
        return columns


def load_window(
    plan: BatchPlan, epoch: int, window: Window, start: int, scratch: Scratch
) -> LoadedWindow:
    """Read the blocks that hold the rank's rows from ``start`` to the window's end, and no others.

    Args:
        plan: Whose batches are read.
        epoch: Which epoch.
        window: Which of its windows.
        start: A place in the epoch, within the window.
        scratch: Memory to read into.
    """
    places = plan.places(start, window.stop)
    rows = plan.order.rows(epoch, window)
    rows = rows[places.start - window.start : places.stop - window.start : places.step]
    block_rows = plan.reader.block_rows
    piece, row_of_block = window.locate(rows, block_rows)
    blocks = window.blocks[piece]
    # In the order drawn; a block that comes twice is read once.
    is_needed = np.bincount(piece, minlength=len(window.blocks)) > 0
    read = _distinct(window.blocks[is_needed])
    starts = np.zeros(len(block_rows), dtype=np.int64)  # of the blocks within the rows read
    starts[read] = block_rows[read].cumsum() - block_rows[read]
    ids = plan.block_starts[blocks] + row_of_block
    indices = starts[blocks] + row_of_block
    return LoadedWindow(window, places, ids, indices, plan.reader.read(read, scratch))


def _distinct(blocks: Int64Array) -> Int64Array:
    """Each block once, in the order of its first occurrence."""
    _, first = np.unique(blocks, return_index=True)
    return blocks[np.sort(first)]
