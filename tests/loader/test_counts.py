"""What JestDataset counts, and its length."""

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from jest_loader import (
    Counts,
    UniformSelector,
)
from tests.helpers import jest_dataset, numbered_batches
from tests.loader.builders import Rows, dataset


def test_counts_are_kept_apart():
    data = dataset(numbered_batches(7, 4))
    assert data.counts == Counts()
    list(data)
    assert data.counts == Counts(loaded=28, scored=24, trained=12, dropped=4)
    list(data)
    assert data.counts == Counts(loaded=56, scored=48, trained=24, dropped=8)
    unscored = jest_dataset(
        numbered_batches(2, 4), None, UniformSelector(), super_batch_size=8, sub_batch_size=4
    )
    list(unscored)
    assert unscored.counts == Counts(loaded=8, scored=0, trained=4, dropped=0)
    assert dataset(numbered_batches(2, 4), sub_batch_size=2).filter_ratio == 0.75


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (numbered_batches(7, 4), 3),
        ([*numbered_batches(5, 4), {"number": torch.arange(3), "caption": ["x"] * 3}], 2),
        (DataLoader(Rows(31), batch_size=4), 3),
        (DataLoader(Rows(31), batch_size=4, drop_last=True), 3),
        (StatefulDataLoader(Rows(32), batch_size=4), 4),
    ],
    ids=["list", "list with a short end", "loader", "loader, drop_last", "stateful loader"],
)
def test_length_is_the_number_of_sub_batches(source, expected):
    data = dataset(source)
    assert len(data) == len(list(data)) == expected


def test_a_number_of_examples_that_is_not_known_is_not_asked_for():
    class Batches:
        batch_size, num_examples = 4, None

        def __len__(self):
            return 7

        def __iter__(self):
            return iter(numbered_batches(7, 4))

    assert len(dataset(Batches())) == 3


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Rows(31)[row] for row in range(31))


class SizedStream(Stream):
    def __len__(self):
        return 31


def test_no_length_without_one():
    data = dataset(DataLoader(Stream(), batch_size=4))
    with pytest.raises(TypeError, match="does not have both; say Options"):
        len(data)
    assert len(list(data)) == 3
    sized = dataset(DataLoader(SizedStream(), batch_size=4))
    assert len(sized) == len(list(sized)) == 3
    with pytest.raises(TypeError, match="does not have both"):
        len(dataset(iter(numbered_batches(2, 4))))


def test_a_source_that_cannot_say_is_told_its_size():
    class Batches(IterableDataset):
        def __iter__(self):
            return iter(numbered_batches(7, 4))

    loader = DataLoader(Batches(), batch_size=None)
    data = dataset(loader, batch_size=4, num_examples=28)
    assert len(data) == len(list(data)) == 3
    with pytest.raises(ValueError, match="yield the 40 examples that its length promises, but end"):
        list(dataset(loader, batch_size=4, num_examples=41))
    with pytest.raises(ValueError, match="at most the 20 examples that its length allows"):
        list(dataset(loader, batch_size=4, num_examples=17))
    with pytest.raises(ValueError, match="same number of rows, got 4 where 2 were expected"):
        list(dataset(loader, batch_size=2))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (numbered_batches(4, 4), {"batch_size": 8}, "must be the source's own, got 8 and 4"),
        (numbered_batches(4, 4), {"num_examples": 16}, "a list has one; leave it out"),
        (iter([]), {"num_examples": 16}, "num_examples needs batch_size"),
        (iter([]), {"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        (iter([]), {"batch_size": 3}, "must be a multiple of the source's batch size, got 8 and 3"),
    ],
    ids=["another size", "another length", "no size", "zero", "no multiple"],
)
def test_a_size_that_does_not_fit_is_refused(source, options, message):
    with pytest.raises(ValueError, match=message):
        dataset(source, **options)
