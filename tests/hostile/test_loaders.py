"""Loaders that yield more or fewer rows than their length says, or that forget their order."""

import copy

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import BatchSampler as StatefulBatchSampler
from torchdata.stateful_dataloader.sampler import RandomSampler as StatefulRandomSampler

from tests.loader.builders import Rows, dataset, numbers

ROWS = Rows(64)


class Unshared(IterableDataset):
    """Rows of which every worker yields all."""

    def __len__(self):
        return 64

    def __iter__(self):
        return (ROWS[row] for row in range(64))


class Stops(Dataset):
    """Ends a loader's pass in the middle."""

    def __len__(self):
        return 64

    def __getitem__(self, row):
        if row == 40:
            raise StopIteration
        return ROWS[row]


class Batches:
    """A batch sampler of one's own, with or without a length."""

    def __init__(self, num_batches, promised):
        self.num_batches, self.promised = num_batches, promised

    def __len__(self):
        if self.promised is None:
            raise TypeError("no length")
        return self.promised

    def __iter__(self):
        return iter([[4 * n, 4 * n + 1, 4 * n + 2, 4 * n + 3] for n in range(self.num_batches)])


class Half:
    """A sampler without a length, which draws a part of the rows."""

    def __iter__(self):
        return iter(range(32))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (
            lambda: DataLoader(Unshared(), 4, num_workers=2),
            "at most the 68 .* yielded 72 in epoch 0",
        ),
        (lambda: DataLoader(Stops(), 4), "the 64 examples .* ended after 40 in epoch 0"),
        (
            lambda: DataLoader(Stops(), batch_sampler=BatchSampler(range(64), 4, True)),
            "the 64 examples .* ended after 40",
        ),
        (
            lambda: DataLoader(ROWS, batch_sampler=Batches(10, promised=16)),
            "the 60 examples .* ended after 40",
        ),
        (
            lambda: DataLoader(ROWS, batch_sampler=Batches(16, promised=8)),
            "at most the 32 .* yielded 40",
        ),
    ],
    ids=["each worker all", "stops", "stops, batch sampler", "fewer batches", "more batches"],
)
def test_more_or_fewer_rows_than_promised_are_an_error(loader, message):
    with pytest.raises(ValueError, match=message):
        list(dataset(loader()))


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(ROWS, batch_sampler=Batches(16, promised=None)),
        lambda: DataLoader(ROWS, batch_sampler=Batches(16, promised=16)),
        lambda: DataLoader(ROWS, batch_sampler=BatchSampler(range(62), 4, False)),
        lambda: DataLoader(ROWS, 4, sampler=SubsetRandomSampler(range(62))),
        lambda: DataLoader(ROWS, 4, sampler=WeightedRandomSampler([1.0] * 64, 64)),
    ],
    ids=["no length", "own", "torch's", "subset", "weighted"],
)
def test_samplers_that_keep_their_promise_are_read_to_the_end(loader):
    data = dataset(loader())
    assert len(list(data)) in (7, 8)
    assert data.counts.loaded in (62, 64)


def test_a_sampler_without_a_length_promises_nothing():
    data = dataset(DataLoader(ROWS, 4, sampler=Half()))
    assert numbers(data)[-1] == [31, 30, 29, 28]
    with pytest.raises(TypeError):
        len(data)


def test_a_batch_sampler_gives_the_dataset_a_length_and_a_size():
    data = dataset(DataLoader(ROWS, batch_sampler=BatchSampler(range(62), 4, False)))
    assert len(data) == len(list(data)) == 7
    with pytest.raises(ValueError, match="multiple of the source's batch size, got 8 and 3"):
        dataset(DataLoader(ROWS, batch_sampler=BatchSampler(range(62), 3, False)))


def seeded():
    return torch.Generator().manual_seed(1)


FORGETFUL = {
    "torch's sampler": lambda: StatefulDataLoader(
        ROWS, 4, sampler=RandomSampler(ROWS, generator=seeded())
    ),
    "subset": lambda: StatefulDataLoader(ROWS, 4, sampler=SubsetRandomSampler(range(64))),
    "weighted": lambda: StatefulDataLoader(ROWS, 4, sampler=WeightedRandomSampler([1.0] * 64, 64)),
    "torch's batch sampler": lambda: StatefulDataLoader(
        ROWS, batch_sampler=BatchSampler(StatefulRandomSampler(ROWS, generator=seeded()), 4, True)
    ),
    "torch's sampler within": lambda: StatefulDataLoader(
        ROWS, batch_sampler=StatefulBatchSampler(RandomSampler(ROWS, generator=seeded()), 4, True)
    ),
    "both torch's": lambda: StatefulDataLoader(
        ROWS, batch_sampler=BatchSampler(RandomSampler(ROWS), 4, True)
    ),
    "a shared generator": lambda: StatefulDataLoader(ROWS, 4, shuffle=True, generator=seeded()),
}
EXACT = {
    "shuffled": lambda: StatefulDataLoader(ROWS, 4, shuffle=True),
    "in order": lambda: StatefulDataLoader(ROWS, 4, generator=seeded()),
    "sampler": lambda: StatefulDataLoader(
        ROWS, 4, sampler=StatefulRandomSampler(ROWS, generator=seeded())
    ),
    "batch sampler": lambda: StatefulDataLoader(
        ROWS,
        batch_sampler=StatefulBatchSampler(
            StatefulRandomSampler(ROWS, generator=seeded()), 4, True
        ),
    ),
    "torch's batch sampler in order": lambda: StatefulDataLoader(
        ROWS, batch_sampler=BatchSampler(SequentialSampler(ROWS), 4, True)
    ),
    "torch's batch sampler, distributed": lambda: StatefulDataLoader(
        ROWS, batch_sampler=BatchSampler(DistributedSampler(ROWS, 1, 0), 4, True)
    ),
}


@pytest.mark.parametrize("form", FORGETFUL)
def test_a_loader_that_forgets_its_order_is_refused_when_saved(form):
    data = dataset(FORGETFUL[form]())
    assert len(list(data)) == 8  # Without a stop the order does not matter.
    with pytest.raises(ValueError, match=r"resumed in the order in which it was read.* sampler="):
        data.state_dict()


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("num_epochs", [0, 1])
def test_the_other_forms_of_a_loader_resume_exactly(form, num_epochs):
    torch.manual_seed(0)
    data = dataset(EXACT[form]())
    for _ in range(num_epochs):
        list(data)
    batches = iter(data)
    next(batches)
    state = copy.deepcopy(data.state_dict())
    expected = numbers(batches)
    resumed = dataset(EXACT[form]())
    resumed.load_state_dict(state)
    assert numbers(resumed) == expected
    assert len(expected) == 7


class Prepared(DataLoader):
    """Has the methods of a state that its own loader lacks, as Accelerate's loaders do."""

    def state_dict(self):
        raise AttributeError("no dl_state_dict")

    def load_state_dict(self, state_dict):
        raise AttributeError("no dl_state_dict")


def test_a_loader_whose_state_fails_trains_and_is_not_saved():
    data = dataset(Prepared(ROWS, 4))
    message = "a Prepared has a state_dict, but it fails; pass the loader itself rather than"
    with pytest.raises(ValueError, match=message):
        data.state_dict()
    batches = iter(data)
    next(batches)
    with pytest.raises(ValueError, match=message):
        data.state_dict()
    assert len(list(batches)) == 7
