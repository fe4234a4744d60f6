"""Sources, scorers and selectors that break their promise end the run with an error."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from jest_loader import (
    ExampleScores,
)
from tests.helpers import jest_dataset, numbered_batches
from tests.loader.builders import Rows, dataset


def changed(batches, index, **columns):
    batches[index] = {**batches[index], **columns}
    return batches


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (numbered_batches(0, 4), "the source is empty: it yielded no batch in epoch 0"),
        (numbered_batches(1, 4), "ended after 4 examples and super_batch_size is 8"),
        (numbered_batches(3, 3), "multiple of the source's batch size, got 8 and 3; use 9"),
        (
            [*numbered_batches(1, 6), *numbered_batches(1, 2)],
            "multiple of the source's batch size, got 8 and 6; use 6",
        ),
        (
            [*numbered_batches(1, 4), *numbered_batches(1, 2), *numbered_batches(2, 4)],
            "same number of rows, got 2 where 4 were expected",
        ),
        (
            changed(numbered_batches(2, 4), 1, number=torch.zeros(4)),
            r"column \['number'\] was tensor of int64 rows \(\) and is now tensor of float32",
        ),
        (
            changed(numbered_batches(2, 4), 1, extra=["x"] * 4),
            r"column \['extra'\] was absent and is now list",
        ),
        (
            changed(numbered_batches(2, 4), 1, number=np.arange(4)),
            r"\['number'\] was tensor .* and is now array of int64",
        ),
    ],
    ids=[
        "empty",
        "too few",
        "no multiple",
        "fits by luck",
        "short in the middle",
        "dtype",
        "column",
        "kind",
    ],
)
def test_sources_that_do_not_fit_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        list(dataset(source))


def test_an_uncollated_batch_is_noticed():
    loader = DataLoader(Rows(16), batch_size=4, collate_fn=lambda rows: rows[0]["number"].repeat(3))
    with pytest.raises(ValueError, match="got 3 where 4 were expected"):
        list(dataset(loader))


def test_what_is_not_scores_or_an_index_is_refused():
    class Bare:
        def score(self, super_batch):
            return torch.zeros(8)

    with pytest.raises(
        ValueError, match=r"must return Scores, got Tensor; ExampleScores\(values\)"
    ):
        list(jest_dataset(numbered_batches(2, 4), Bare(), super_batch_size=8, sub_batch_size=4))

    class Picks:
        def select(self, scores, size, *, key):
            return [0, 1, 2, 3]

    with pytest.raises(ValueError, match="must return an int64 tensor, got list"):
        list(dataset(numbered_batches(2, 4), Picks()))


def test_scores_of_another_size_are_refused():
    class Short:
        def score(self, super_batch):
            return ExampleScores(torch.zeros(7))

    with pytest.raises(ValueError, match="one score per candidate, got 7 for 8"):
        list(jest_dataset(numbered_batches(2, 4), Short(), super_batch_size=8, sub_batch_size=4))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 1, 2], r"must return int64 of shape \(4,\), got torch.int64 of \(3,\)"),
        ([0, 1, 1, 2], "must return distinct rows"),
        ([0, 1, 2, 8], r"distinct rows in \[0, 8\)"),
        ([0.0, 1.0, 2.0, 3.0], "got torch.float32"),
        ([0, 1, 2**62 + 5, 2], r"candidates with finite scores, but 1 had none .*at row 5"),
    ],
    ids=["short", "repeated", "beyond", "float", "marked"],
)
def test_a_selector_that_breaks_its_promise_is_noticed(index, message):
    class Selector:
        def select(self, scores, size, *, key):
            return torch.tensor(index)

    with pytest.raises(ValueError, match=message):
        list(dataset(numbered_batches(2, 4), Selector()))
