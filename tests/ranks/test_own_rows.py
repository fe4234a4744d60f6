"""Ranks that read the same rows are refused, before or at the first super-batch."""

import threading

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    Subset,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from jest_loader import UniformSelector
from jest_loader.testing import simulate_ranks
from tests.helpers import jest_dataset, numbered_batches
from tests.loader.builders import Rows

ROWS = Rows(64)


class Stream(IterableDataset):
    def __init__(self, first):
        self.first = first

    def __iter__(self):
        return (ROWS[row] for row in range(self.first, 64, 2))


def numbers_of_ranks(source, num_epochs=1, **options):
    """For each of two ranks, the numbers that it was given in each epoch."""

    def run(group):
        data = jest_dataset(
            source(group.rank), None, UniformSelector(), super_batch_size=16, sub_batch_size=8,
            group=group, **options,
        )  # fmt: skip
        return [[n for b in data for n in b["number"].tolist()] for _ in range(num_epochs)]

    return simulate_ranks(2, run)


class Sharded(list):
    """Has another kind's ``shard``, as Hugging Face's streams."""

    def shard(self, num_shards, index):
        raise AssertionError


SAME = {
    "another's shard": lambda rank: Sharded(numbered_batches(8, 8)),
    "in order": lambda rank: DataLoader(ROWS, 8),
    "shuffled": lambda rank: DataLoader(ROWS, 8, shuffle=True),
    "stateful": lambda rank: StatefulDataLoader(ROWS, 8, shuffle=True),
    "batch sampler": lambda rank: DataLoader(ROWS, batch_sampler=BatchSampler(range(64), 8, True)),
    "list": lambda rank: numbered_batches(8, 8),
    "stream": lambda rank: DataLoader(Stream(0), 8),
}


def pictures(rank):
    """Object arrays of pictures that differ in their middle, which their text leaves out."""
    column = np.empty(8, dtype=object)
    for row in range(8):
        column[row] = np.zeros((64, 64), np.uint8)
        column[row][32, 32] = 1 + rank
    return [{"number": torch.zeros(8), "image": column}] * 4


DIVIDED = {
    "pictures": pictures,
    "distributed": lambda rank: DataLoader(ROWS, 8, sampler=DistributedSampler(ROWS, 2, rank)),
    "stream": lambda rank: DataLoader(Stream(rank), 8),
    "list": lambda rank: numbered_batches(8, 8)[rank::2],
    "sampler of one's own": lambda rank: DataLoader(ROWS, 8, sampler=range(rank, 64, 2)),
    "weighted": lambda rank: DataLoader(
        ROWS, 8, sampler=WeightedRandomSampler([1.0] * 64, 64, generator=torch.Generator())
        if rank else range(64)
    ),
    "parts of other sizes": lambda rank: DataLoader(Subset(ROWS, range(32 * rank, 48)), 8),
}  # fmt: skip


@pytest.mark.parametrize("form", SAME)
def test_ranks_that_read_the_same_rows_are_refused(form):
    with pytest.raises(ValueError, match=r"rank.? must read rows of its own.*DistributedSampler"):
        numbers_of_ranks(SAME[form])


@pytest.mark.parametrize("form", DIVIDED)
def test_ranks_with_rows_of_their_own_read_them(form):
    first, second = numbers_of_ranks(DIVIDED[form])
    assert first[0]
    assert second[0]


def test_parts_of_one_size_need_to_be_told_of():
    def source(rank):
        return DataLoader(Subset(ROWS, range(rank, 64, 2)), 8, shuffle=True)

    with pytest.raises(
        ValueError, match=r"draws all 32 rows of the dataset on each.*own_rows=True"
    ):
        numbers_of_ranks(source)
    first, second = numbers_of_ranks(source, own_rows=True)
    assert len(first[0]) == len(second[0]) == 16
    assert not set(first[0]) & set(second[0])


def test_each_epoch_has_an_order_of_its_own_without_a_word():
    (epochs, others) = numbers_of_ranks(DIVIDED["distributed"], num_epochs=3)
    assert len({str(epoch) for epoch in epochs}) == 3
    assert not any(set(one) & set(other) for one, other in zip(epochs, others, strict=True))


class Told:
    """Keeps the epochs that it was told of."""

    def set_epoch(self, epoch):
        self.epochs = (*getattr(self, "epochs", ()), epoch)


class ToldRows(Told, Rows):
    pass


class ToldList(Told, list):
    pass


@pytest.mark.parametrize("where", ["sampler", "dataset", "batch_sampler"])
def test_set_epoch_reaches_what_a_loader_draws_from(where):
    rows, sampler = ToldRows(16), ToldList(range(16))
    batches = ToldList([[0, 1, 2, 3], [4, 5, 6, 7]])
    told = {"sampler": sampler, "dataset": rows, "batch_sampler": batches}[where]
    loader = (
        DataLoader(rows, batch_sampler=batches)
        if where == "batch_sampler"
        else DataLoader(rows, 4, sampler=sampler)
    )
    data = jest_dataset(loader, None, UniformSelector(), super_batch_size=8, sub_batch_size=4)
    list(data)
    data.set_epoch(5)
    list(data)
    assert told.epochs == (0, 5)


class DataLoaderDispatcher(DataLoader):
    """Named as Accelerate's, which sends each batch from rank 0 to the others."""


def test_a_loader_that_talks_with_ranks_begins_in_the_callers_thread():
    class Talks(DataLoader):
        def __iter__(self):
            self.began_in = threading.get_ident()
            yield from super().__iter__()

    def run(group):
        loader = Talks(ROWS, 8, sampler=range(group.rank, 64, 2))
        data = jest_dataset(
            loader, None, UniformSelector(), super_batch_size=16, sub_batch_size=8, group=group
        )
        list(data)
        return loader.began_in == threading.get_ident()

    assert simulate_ranks(2, run) == [True, True]


def test_a_loader_that_talks_for_each_batch_is_refused_in_a_thread():
    def source(rank):
        return DataLoaderDispatcher(ROWS, 8, sampler=range(rank, 64, 2))

    with pytest.raises(ValueError, match=r"DataLoaderDispatcher does for each batch; .*prefetch=0"):
        numbers_of_ranks(source)
    assert numbers_of_ranks(source, prefetch=0)[1]
