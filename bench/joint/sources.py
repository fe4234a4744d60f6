"""Which rows are for what, and the pool as a source of batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from bench.joint.dictionary import Dictionary
from jest_loader.batch import Batch

Order = Literal["random", "families", "neighbours"]
"""What stands together in a super-batch.

``"random"``: nothing. ``"families"``: the forms of a line. ``"neighbours"``: 64 lines that follow
each other in the dictionary, which is sorted.
"""
NUM_TEST_FAMILIES = 8000
_NEIGHBOURS = 64


@dataclass(frozen=True)
class Split:
    """Rows of the dictionary, int64; each family is in one of them.

    Args:
        test: To evaluate on.
        reserve: To train references on.
        pool: To select from.
        others: Of other languages, to select from too.
    """

    test: Tensor
    reserve: Tensor
    pool: Tensor
    others: Tensor

    @classmethod
    def of(cls, dictionary: Dictionary) -> "Split":
        """The same for each run: 8,000 families or a tenth for the test, half of the rest each."""
        german = dictionary.family[dictionary.is_german]
        families = shuffled(torch.unique(german), seed=0)
        test, rest = families.tensor_split([min(NUM_TEST_FAMILIES, len(families) // 10)])
        reserve, pool = rest.tensor_split(2)
        of = partial(_rows_of, dictionary=dictionary)
        return cls(of(test), of(reserve), of(pool), (~dictionary.is_german).nonzero()[:, 0])

    def candidates(self, *, of_all: bool) -> Tensor:
        """Rows to select from: German ones, or those of all languages."""
        return torch.cat([self.pool, self.others]) if of_all else self.pool


@dataclass(frozen=True)
class Pool:
    """What is selected from.

    Args:
        rows: Int64 [n], of the dictionary.
        captions: Int64 [n], the row whose English text each has: another's where it is wrong.
    """

    rows: Tensor
    captions: Tensor

    @classmethod
    def of(cls, rows: Tensor, *, wrong: float, seed: int) -> "Pool":
        """The rows, a share of whose captions are shuffled among each other."""
        swapped = shuffled(torch.arange(len(rows)), seed)[: round(wrong * len(rows))]
        captions = rows.clone()
        captions[swapped] = rows[swapped.roll(1)]
        return cls(rows, captions)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Embedded:
    """A reference's embeddings of all rows, fp32 [n, D] of either side."""

    german: Tensor
    english: Tensor


class PoolSource:
    """The pool in batches, in another order in each epoch.

    Args:
        dictionary: The texts.
        pool: Of it.
        batch_size: Rows of a batch; what is left at an epoch's end is not read.
        order: What stands together.
        seed: Of the order.
        reference: Embeddings that come with the batch, as ``ColumnReference`` reads them.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        pool: Pool,
        batch_size: int,
        *,
        order: Order,
        seed: int,
        reference: Embedded,
    ) -> None:
        self.batch_size = batch_size
        self._dictionary, self._pool, self._reference = dictionary, pool, reference
        self._order, self._seed = order, seed
        self._epoch = self._start = 0

    def __len__(self) -> int:
        return len(self._pool) // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that of ``epoch``; a position loaded within it is kept."""
        if epoch != self._epoch:
            self._epoch, self._start = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """The position after the last batch drawn."""
        return {"epoch": self._epoch, "batch": self._start}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next pass go on from there."""
        self._epoch, self._start = state_dict["epoch"], state_dict["batch"]

    def __iter__(self) -> Iterator[Batch]:
        order = self._positions()
        start, self._start = self._start, 0
        for batch in range(start, len(self)):
            self._start = batch + 1
            yield self._batch(order[batch * self.batch_size :][: self.batch_size])
        self._epoch, self._start = self._epoch + 1, 0

    def _batch(self, positions: Tensor) -> Batch:
        rows, captions = self._pool.rows[positions], self._pool.captions[positions]
        return {
            "row": rows,
            "caption": captions,
            "german": self._dictionary.german[rows],
            "english": self._dictionary.english[captions],
            "reference_image": self._reference.german[rows],
            "reference_text": self._reference.english[captions],
        }

    def _positions(self) -> Tensor:
        """Of the epoch, in its order."""
        # Another permutation than that of the wrong captions, whose seed is the run's too.
        seed = 1_000_000 + 1000 * self._seed + self._epoch
        if self._order == "random":
            return shuffled(torch.arange(len(self._pool)), seed)
        families = self._dictionary.family[self._pool.rows].long()
        groups = families if self._order == "families" else families // _NEIGHBOURS
        place = shuffled(torch.arange(int(groups.max()) + 1), seed)
        return place[groups].argsort(stable=True)


def shuffled(items: Tensor, seed: int) -> Tensor:
    """The items in an order that the seed chooses."""
    return items[torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))]


def _rows_of(families: Tensor, dictionary: Dictionary) -> Tensor:
    return torch.isin(dictionary.family, families).nonzero()[:, 0]
