"""A source over anything that reads a block of rows: batches, epochs and exact resume."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from jest_loader.adapters.blocks.columns import Columns, Rows, Scratch, join
from jest_loader.adapters.blocks.order import BlockOrder, Int64Array, Part, Window
from jest_loader.checks import whole

_STATE_VERSION = 1
_WINDOW_BATCHES = 4


class BlockReader(Protocol):
    """Reads whole blocks of a data set; what it gives does not depend on what it gave before."""

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
        """Changes when the data set does."""
        ...

    def first_rows(self, num_rows: int) -> str:
        """A digest of the first rows, which is the same where others were put after them.

        Where a format does not tell, it changes when anything does.
        """
        ...

    def read(self, blocks: Int64Array, scratch: Scratch) -> Rows:
        """All rows of the given blocks (int64 [n], distinct), end to end, each in stored order.

        They may lie in ``scratch``, and are gone once it is used again.
        """
        ...


class BlockSource:
    """A stateful source of batches, each a dict of columns under the data set's own names.

    A numeric column is a NumPy array [batch, ...], text a list of str, bytes ``RaggedBytes`` or a
    list of bytes (encoded images stay encoded), and anything else a NumPy object array. Each row is
    delivered once an epoch; the order is a function of (seed, epoch), see ``order``. A pass that
    runs to its end moves on to the next epoch; one that is broken off starts over. Iterators do not
    share what they read, and ``state_dict`` describes the newest of them.

    Over several ranks, once ``shard`` was called, an epoch has the same order and each rank is
    dealt every so manieth row of it. The state is the same on all ranks, and goes on with another
    number of them if they take as many rows at a time together.

    Args:
        reader: What is read.
        batch_size: Rows in a batch.
        shuffle: Whether to shuffle.
        window_rows: The least number of rows to shuffle among each other, which are held in memory;
            None for four batches. More mixes better where rows that are stored side by side are
            alike.
        seed: Chooses the order, from 0 to 2**64 - 1.
        id_column: The name under which batches carry each row's int64 place in the data set, or
            None to do without.
        drop_last: Whether to leave out the rows that do not fill a last batch.
        parts: How much of which blocks an epoch has; None for every row once.

    Raises:
        ValueError: if an argument is out of range or does not fit the data set.
    """

    def __init__(
        self,
        reader: BlockReader,
        *,
        batch_size: int,
        shuffle: bool,
        window_rows: int | None,
        seed: int,
        id_column: str | None,
        drop_last: bool,
        parts: tuple[Part, ...] | None = None,
    ) -> None:
        self.batch_size = whole("batch_size", batch_size, 1)
        seed = whole("seed", seed, 0, 2**64 - 1)
        self._window_rows = None if window_rows is None else whole("window_rows", window_rows, 1)
        self.drop_last = drop_last
        self._reader = reader
        self._id_column = id_column
        self._rank, self._num_ranks = 0, 1
        self._order = BlockOrder(reader.block_rows, shuffle, self._rows_to_shuffle(), seed, parts)
        self._first_rows = reader.block_rows.cumsum() - reader.block_rows
        self._epoch = 0
        self._first_batch = 0  # where the next iterator starts
        self._newest: _Pass | None = None
        self._scratch = Scratch()  # of a pass that ended, for the next to begin
        self._check_fit()

    @property
    def num_examples(self) -> int:
        """Rows in an epoch, those that ``drop_last`` leaves out included; the least of any rank."""
        return self._order.num_rows // self._num_ranks

    def __len__(self) -> int:
        """Batches in an epoch."""
        if self.drop_last:
            return self._order.num_rows // self._rows_at_a_time
        return -(-self._order.num_rows // self._rows_at_a_time)

    def shard(self, rank: int, num_ranks: int) -> None:
        """Deal the rows among ranks; ``JestDataset`` calls this where there are several.

        Row p of an epoch is for rank ``p % num_ranks``. Without ``drop_last`` a rank may have one
        row less than others in its last batch. Starts the epoch over.

        Args:
            rank: This one, from 0.
            num_ranks: How many there are.

        Raises:
            ValueError: if there is no such rank, or no batch for each.
        """
        self._num_ranks = whole("num_ranks", num_ranks, 1)
        self._rank = whole("rank", rank, 0, num_ranks - 1)
        self._order = replace(self._order, window_rows=self._rows_to_shuffle())
        self._check_fit()
        self._move_to(self._position()[0], 0)

    def __iter__(self) -> Iterator[Columns]:
        """A pass over the current epoch, from a loaded position if there is one; reads nothing."""
        self._newest = _Pass(self, self._epoch, self._first_batch)
        self._first_batch = 0
        return self._newest

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies: where it stands, without the shards that a pass holds."""
        epoch, batches = self._position()
        position = {"_epoch": epoch, "_first_batch": batches, "_newest": None}
        return {**self.__dict__, **position, "_scratch": Scratch()}

    def fingerprint(self, num_examples: int | None = None) -> str:
        """Names the data, or the first of their rows: what is made for each row belongs to it.

        Of MDS it is a digest of what the index says of the shards, their hashes among it. Rows that
        are added later leave the fingerprint of the first ones as it is. Of Zarr it is a digest of
        shapes and dtypes and, where ``jest_loader.pack`` wrote the data, of their content; that of
        some rows is that of all.
        """
        num_rows = int(self._reader.block_rows.sum())
        return self._reader.first_rows(num_rows if num_examples is None else num_examples)

    def seek(self, batch: int) -> None:
        """Let the next iterator start at a batch of the current epoch, counted from 0.

        Raises:
            ValueError: if the epoch has no such batch.
        """
        self._move_to(self._position()[0], whole("batch", batch, 0, len(self)))

    def set_epoch(self, epoch: int) -> None:
        """Let the next iterator start ``epoch``; a loaded position in that epoch is kept."""
        epoch = whole("epoch", epoch, 0)
        if epoch != self._position()[0]:
            self._move_to(epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch drawn, as plain JSON values."""
        epoch, batches = self._position()
        return {
            "version": _STATE_VERSION,
            "epoch": epoch,
            "batches": batches,
            "fingerprint": self._fingerprint(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next iterator start where ``state_dict`` was taken.

        Raises:
            ValueError: if the state belongs to another data set, another order or another version.
        """
        self._check_state(state_dict)
        epoch = whole("the state's epoch", state_dict["epoch"], 0)
        self._move_to(epoch, whole("the state's batches", state_dict["batches"], 0, len(self)))

    def _move_to(self, epoch: int, batches: int) -> None:
        self._newest = None
        self._epoch, self._first_batch = epoch, batches

    def _position(self) -> tuple[int, int]:
        if self._newest is not None:
            return self._newest.epoch, self._newest.batches
        return self._epoch, self._first_batch

    def _finish(self, finished: "_Pass") -> None:
        # It may be asked for more after its end, so it keeps nothing of what others will use.
        self._scratch, finished._scratch = finished._scratch, Scratch()
        if finished is self._newest:
            self._move_to(finished.epoch + 1, 0)

    @property
    def _rows_at_a_time(self) -> int:
        """Of all ranks."""
        return self.batch_size * self._num_ranks

    def _rows_to_shuffle(self) -> int:
        return self._window_rows or _WINDOW_BATCHES * self._rows_at_a_time

    def _fingerprint(self) -> dict[str, Any]:
        """Everything that the meaning of a position depends on."""
        parts = self._order.parts
        mixed = {} if parts is None else {"mixture": [part.epoch_rows for part in parts]}
        return {
            "dataset": self._reader.fingerprint,
            "num_examples": self._order.num_rows,
            "batch size over all ranks": self._rows_at_a_time,
            "drop_last": self.drop_last,
            "shuffle": self._order.shuffle,
            "window_rows": self._order.window_rows,
            "seed": self._order.seed,
            **mixed,
        }

    def _check_fit(self) -> None:
        if self._id_column in self._reader.column_names:
            raise ValueError(
                f"id_column must not be a column of the data set, got {self._id_column!r}, one of "
                f"{list(self._reader.column_names)}; give another id_column, or None to do without "
                "row ids"
            )
        if not len(self) or not self.num_examples:
            ranks = f" on each of {self._num_ranks} ranks" if self._num_ranks > 1 else ""
            raise ValueError(
                f"the data set must hold at least one batch, got {self._order.num_rows} rows and a "
                f"batch_size of {self.batch_size}{ranks}; use a smaller batch_size, or in "
                "code drop_last=False"
            )

    def _check_state(self, state: Mapping[str, Any]) -> None:
        missing = {"version", "epoch", "batches", "fingerprint"} - state.keys()
        if missing:
            raise ValueError(
                f"a state must be one that state_dict returned, got one without {sorted(missing)}; "
                "load the state of this source, not of the loader around it"
            )
        if state["version"] != _STATE_VERSION:
            raise ValueError(
                f"the state's version must be {_STATE_VERSION}, got {state['version']}; "
                "load it with the release that saved it"
            )
        for name, value in self._fingerprint().items():
            saved = state["fingerprint"].get(name)
            if saved != value:
                raise ValueError(
                    f"the state must come from a source with the same {name}, got {saved!r} in the "
                    f"state and {value!r} here; build the source as it was, or start without the "
                    "state"
                )


class _Pass(Iterator[Columns]):
    """One pass over an epoch; holds the rows of one window.

    Args:
        source: Whose rows to deliver.
        epoch: Which epoch's order to follow.
        batches: How many batches were delivered before.
    """

    def __init__(self, source: BlockSource, epoch: int, batches: int) -> None:
        self.epoch = epoch
        self.batches = batches
        self._source = source
        self._stop = min(len(source) * source._rows_at_a_time, source._order.num_rows)
        self._windows: list[Window] | None = None
        self._window: Window | None = None
        self._scratch, source._scratch = source._scratch, Scratch()
        self._held: Rows | None = None  # the undelivered rows of the window, in stored order
        self._rows = np.arange(0)  # their delivery order: indices into those held
        self._ids = np.arange(0)  # the same as places in the data set

    def __next__(self) -> Columns:
        start = self.batches * self._source._rows_at_a_time
        stop = min(start + self._source._rows_at_a_time, self._stop)
        if start + self._source._rank >= self._stop:
            self._held = None
            self._source._finish(self)
            raise StopIteration
        parts = []
        while start < stop:
            window = self._window_at(start)
            upto = min(stop, window.stop)
            if self._own(start, upto):
                self._load(window, start)
                left = len(self._own(start, self._end_of(window)))
                first = len(self._rows) - left
                parts.append(self._take(first, first + len(self._own(start, upto))))
            start = upto
        self.batches += 1
        return join(parts)

    def _take(self, first: int, last: int) -> Columns:
        assert self._held is not None
        columns = self._held.take(self._rows[first:last])
        if self._source._id_column is not None:
            columns[self._source._id_column] = self._ids[first:last].copy()
        return columns

    def _own(self, start: int, stop: int) -> range:
        """This rank's places in the epoch from ``start`` to ``stop``."""
        num_ranks = self._source._num_ranks
        return range(start + (self._source._rank - start) % num_ranks, stop, num_ranks)

    def _end_of(self, window: Window) -> int:
        return min(window.stop, self._stop)

    def _window_at(self, position: int) -> Window:
        if self._window is not None and self._window.start <= position < self._window.stop:
            return self._window
        if self._windows is None:
            self._windows = self._source._order.windows(self.epoch)
        return self._windows[bisect_right(self._windows, position, key=lambda window: window.stop)]

    def _load(self, window: Window, position: int) -> None:
        if window is self._window:
            return
        self._held = self._window = None  # let go of the old window before the new one is read
        self._read(window, position)
        self._window = window

    def _read(self, window: Window, position: int) -> None:
        """Read the blocks that hold the own rows from ``position`` to the end, and no others."""
        order = self._source._order
        own = self._own(position, self._end_of(window))
        rows = order.rows(self.epoch, window)
        rows = rows[own.start - window.start : own.stop - window.start : own.step]
        ends = window.rows.cumsum()
        piece = np.searchsorted(ends, rows, side="right")
        blocks = window.blocks[piece]
        sizes = order.block_rows[blocks]
        row_of_block = (window.firsts[piece] + rows - (ends - window.rows)[piece]) % sizes
        self._ids = self._source._first_rows[blocks] + row_of_block
        # In the order drawn; a block that comes twice is read once.
        needed = _distinct(window.blocks[np.bincount(piece, minlength=len(ends)) > 0])
        starts = np.zeros(len(order.block_rows), dtype=np.int64)
        starts[needed] = order.block_rows[needed].cumsum() - order.block_rows[needed]
        self._rows = starts[blocks] + row_of_block
        self._held = self._source._reader.read(needed, self._scratch)


def _distinct(blocks: Int64Array) -> Int64Array:
    _, first = np.unique(blocks, return_index=True)
    return blocks[np.sort(first)]
