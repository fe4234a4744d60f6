"""Loaders behind another object, which hands on their batches as timm's PrefetchLoader does."""

import pytest
from torch.utils.data import DataLoader, DistributedSampler

from tests.loader.builders import Rows, dataset, numbers


class Wrapper:
    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        yield from self.loader


class Sized(Wrapper):
    def __len__(self):
        return len(self.loader)


class Half(Wrapper):
    """Yields every other batch."""

    def __len__(self):
        return len(self.loader) // 2

    def __iter__(self):
        yield from [*self.loader][::2]


def loader(**options):
    return DataLoader(Rows(62), **(options or {"batch_size": 4}))


def test_a_wrapper_has_its_loaders_length_and_size():
    data = dataset(Sized(loader()))
    assert len(data) == len(list(data)) == 7
    with pytest.raises(ValueError, match="multiple of the source's batch size, got 8 and 3"):
        dataset(Sized(loader(batch_size=3)))


@pytest.mark.parametrize("kind", [Half, Wrapper])
def test_a_wrapper_of_other_batches_says_nothing_of_them(kind):
    data = dataset(kind(loader()))
    assert len(list(data)) in (4, 7)
    with pytest.raises(TypeError, match=f"{kind.__name__} does not have both"):
        len(data)


@pytest.mark.parametrize("kind", [Half, Wrapper, Sized])
def test_set_epoch_reaches_the_sampler_of_a_wrapped_loader(kind):
    def make():
        return dataset(kind(loader(batch_size=4, sampler=DistributedSampler(Rows(62), 1, 0))))

    data, told = make(), make()
    first, second = numbers(data), numbers(data)
    told.set_epoch(1)
    assert numbers(told) == second != first
