"""Loaders that would iterate a dataset as no training loop should are refused."""

import pytest
from torch.utils.data import DataLoader, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from jest_loader import JestDataset, UniformSelector
from tests.loader.builders import Rows, dataset, numbers

LOADERS = [DataLoader, StatefulDataLoader]


def sub_batches():
    return dataset(DataLoader(Rows(32), batch_size=4))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_loader_that_batches_sub_batches_again_is_refused(loader, batch_size):
    data = sub_batches()
    with pytest.raises(
        ValueError, match=r"yields batches, .*; use DataLoader\(dataset, batch_size"
    ):
        next(iter(loader(data, batch_size=batch_size)))
    assert data.counts.loaded == 0  # It is said before anything is read.


def test_a_subclass_is_refused_as_well():
    class Logged(JestDataset):
        def __iter__(self):
            return super().__iter__()

    batches = list(DataLoader(Rows(32), batch_size=4))
    data = Logged(batches, None, UniformSelector(), super_batch_size=8, sub_batch_size=4)
    with pytest.raises(ValueError, match="a DataLoader must not batch again"):
        next(iter(DataLoader(data, batch_size=2)))


@pytest.mark.parametrize("loader", LOADERS)
def test_a_loader_that_passes_sub_batches_on_is_none_to_refuse(loader):
    assert numbers(loader(sub_batches(), batch_size=None)) == numbers(sub_batches())


def test_a_loader_over_a_dataset_of_ones_own_may_batch_what_it_yields():
    class FirstNumbers(IterableDataset):
        def __iter__(self):
            return (batch["number"][0] for batch in sub_batches())

    firsts = [rows[0] for rows in numbers(sub_batches())]
    [found] = DataLoader(FirstNumbers(), batch_size=4)
    assert found.tolist() == firsts
