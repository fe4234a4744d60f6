"""A StopIteration out of a user's own code is an error, not the end of an epoch without rows."""

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader

from jest_loader import ExampleScores, JestDataset, Options, TopKSelector
from tests.loader.builders import Rows

SOURCE = [{"number": torch.arange(8.0)}] * 3


def ends(*_, **__):
    return next(iter([]))


class Scorer:
    def score(self, super_batch):
        return ExampleScores(super_batch["number"].float())

    def update(self, sub_batch):
        pass

    def snapshot(self):
        return self


def dataset(*, name, prefetch, overlap):
    scorer = Scorer()
    functions = {name: ends} if name in ("prepare", "materialize") else {}
    if name in ("score", "update"):
        setattr(scorer, name, ends)
    options = Options(prefetch=prefetch, overlap=overlap)
    return JestDataset(
        SOURCE,
        scorer,
        TopKSelector(),
        super_batch_size=8,
        sub_batch_size=4,
        options=options,
        **functions,
    )


@pytest.mark.parametrize("name", ["prepare", "materialize", "score", "update"])
@pytest.mark.parametrize(
    ("prefetch", "overlap"),
    [(0, False), (1, False), (1, True)],
    ids=["in turn", "ahead", "overlap"],
)
def test_a_function_that_raises_it_is_named(name, prefetch, overlap):
    with pytest.raises(ValueError, match=r"must return, but raised StopIteration, .*; give next"):
        list(dataset(name=name, prefetch=prefetch, overlap=overlap))


class Hidden(BatchSampler):
    """Of a size, but without a sampler that could be asked for its length."""

    def __init__(self):
        self.batch_size, self.drop_last = 4, False

    def __iter__(self):
        return iter([[0, 1, 2, 3], [4, 5, 6, 7]])

    def __len__(self):
        return 2


def test_the_length_of_a_hidden_sampler_is_not_known():
    loader = DataLoader(Rows(8), batch_sampler=Hidden())
    data = JestDataset(loader, Scorer(), TopKSelector(), super_batch_size=8, sub_batch_size=4)
    with pytest.raises(TypeError, match=r"does not have both; say Options\(batch_size"):
        len(data)
    assert len(list(data)) == 1
