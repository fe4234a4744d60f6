"""A source over anything that reads a block of rows: batches, epochs and exact resume."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Unpack

from jest_loader.adapters.blocks.columns import Columns
from jest_loader.adapters.blocks.epoch_pass import EpochPass
from jest_loader.adapters.blocks.options import SourceKeywords, SourceOptions
from jest_loader.adapters.blocks.order import Part
from jest_loader.adapters.blocks.plan import BatchPlan
from jest_loader.adapters.blocks.reader import BlockReader
from jest_loader.adapters.blocks.scratch import Scratch
from jest_loader.adapters.blocks.state import SourcePosition, from_state, to_state
from jest_loader.checks import whole


class BlockSource:
    """A stateful source of batches, each a dict of columns under the data set's own names.

    A numeric column is a NumPy array [batch, ...], text a list of str, bytes ``RaggedBytes`` or a
    list of bytes (encoded images stay encoded), and anything else a NumPy object array. Each row is
    delivered once an epoch; the order is a function of (seed, epoch). A pass that runs to its end
    moves on to the next epoch; one that is broken off starts over. Iterators do not share what they
    read, and ``state_dict`` describes the newest of them.

    Over several ranks, once ``shard`` was called, an epoch has the same order and each rank gets
    every num_ranks-th row of it. The state is the same on all ranks. Another number of ranks can
    load it if together they take the same number of rows in a batch.

    Args:
        reader: What is read.
        parts: All blocks, divided into streams; None for every row once.
        **options: ``batch_size`` and the others of ``SourceOptions``.

    Raises:
        ValueError: if an option is out of range or does not fit the data set.
    """

    def __init__(
        self,
        reader: BlockReader,
        *,
        parts: tuple[Part, ...] | None = None,
        **options: Unpack[SourceKeywords],
    ) -> None:
        self._plan = BatchPlan(reader, SourceOptions(**options), parts)
        self._start = SourcePosition(0, 0)  # of the next iterator, where there is no newest
        self._newest: EpochPass | None = None
        self._spare: list[Scratch] = []  # of a pass that ended, for the next to begin

    @property
    def batch_size(self) -> int:
        """Rows in a batch."""
        return self._plan.options.batch_size

    @property
    def num_examples(self) -> int:
        """Rows of an epoch on the rank that has the fewest, those that ``drop_last`` drops too."""
        return self._plan.num_examples

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._plan.num_batches

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
        num_ranks = whole("num_ranks", num_ranks, 1)
        rank = whole("rank", rank, 0, num_ranks - 1)
        self._plan = replace(self._plan, rank=rank, num_ranks=num_ranks)
        self._move_to(SourcePosition(self._position.epoch, 0))

    def __iter__(self) -> Iterator[Columns]:
        """A pass over the current epoch, from a loaded position if there is one; reads nothing."""
        start = self._start if self._newest is None else SourcePosition(self._position.epoch, 0)
        self._newest = EpochPass(self._plan, start, self._spare)
        return self._newest

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies: where it stands, without what a pass holds in memory."""
        return {**self.__dict__, "_start": self._position, "_newest": None, "_spare": []}

    def fingerprint(self, num_examples: int | None = None) -> str:
        """A digest that identifies the data set, or its first ``num_examples`` rows.

        A reference cache keeps it, to be used with the data that it was made from. For MDS it is a
        digest of what the index says of the shards, with their hashes; appending rows leaves the
        fingerprint of the first rows as it is. For Zarr it is a digest of shapes and dtypes and, if
        ``jest_loader.pack`` wrote the data, of their content, and the same for any number of rows.
        """
        reader = self._plan.reader
        num_rows = int(reader.block_rows.sum())
        return reader.first_rows(num_rows if num_examples is None else num_examples)

    def seek(self, batch: int) -> None:
        """Let the next iterator start at a batch of the current epoch, counted from 0.

        Raises:
            ValueError: if the epoch has no such batch.
        """
        self._move_to(SourcePosition(self._position.epoch, whole("batch", batch, 0, len(self))))

    def set_epoch(self, epoch: int) -> None:
        """Let the next iterator start ``epoch``; a loaded position in that epoch is kept."""
        epoch = whole("epoch", epoch, 0)
        if epoch != self._position.epoch:
            self._move_to(SourcePosition(epoch, 0))

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch drawn, as plain JSON values."""
        return to_state(self._position, self._plan)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next iterator start where ``state_dict`` was taken.

        Raises:
            ValueError: if the state belongs to another data set, another order or another version.
        """
        self._move_to(from_state(state_dict, self._plan))

    @property
    def _position(self) -> SourcePosition:
        """After the last batch drawn from the newest iterator."""
        return self._start if self._newest is None else self._newest.position

    def _move_to(self, start: SourcePosition) -> None:
        self._newest = None
        self._start = start
