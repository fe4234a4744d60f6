"""The arguments that JestDataset refuses, at once and by name."""

import pytest
import torch
from torch.utils.data import DataLoader

from jest_loader import (
    JointSelector,
    TopKSelector,
)
from tests.helpers import jest_dataset, numbered_batches
from tests.loader.builders import ByNumber, Rows, dataset


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sub_batch_size": 9}, "at most super_batch_size, got 9 and 8"),
        ({"sub_batch_size": 0}, "sub_batch_size must be a whole number of at least 1, got 0"),
        ({"seed": -1}, "seed must be a whole number from 0 to 9223372036854775807, got -1"),
        ({"super_batch_size": 8.0}, "super_batch_size must be a whole number .* got 8.0"),
        ({"materialize": "decode"}, "materialize must be a function or None, got 'decode'"),
        ({"super_batch_size": 10}, "multiple of the source's batch size, got 10 and 4; use 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        dataset(DataLoader(Rows(16), batch_size=4), **options)


@pytest.mark.parametrize(
    ("source", "scorer", "selector", "message"),
    [
        (5, ByNumber(), TopKSelector(), "source must be an iterable of batches, got int"),
        (
            [],
            torch.nn.Linear(2, 2),
            TopKSelector(),
            r"scorer must be an object with a score.*got Linear.*wrap",
        ),
        ([], ByNumber, TopKSelector(), r"scorer must be an object .* got type; wrap"),
        (
            [],
            ByNumber(),
            TopKSelector,
            r"selector must be an object .* use one like JointSelector\(\)",
        ),
        ([], ByNumber(), "joint", "selector must be an object with a select method, got 'joint'"),
        ([], None, JointSelector(), "scorer=None goes with UniformSelector only, got JointSel"),
    ],
    ids=["source", "scorer", "scorer class", "selector class", "selector", "no scorer"],
)
def test_parts_that_cannot_go_together_are_refused(source, scorer, selector, message):
    with pytest.raises(ValueError, match=message):
        jest_dataset(source, scorer, selector, super_batch_size=8, sub_batch_size=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "data"}, "group must be a process group of torch.distributed or None, got str"),
        ({"schedule": 3}, "schedule must be a Schedule or None, got 3"),
        ({"overlap": "no"}, "overlap must be True or False, got 'no'"),
        ({"stall_timeout_s": "x"}, "stall_timeout_s must be a positive number .* got 'x'"),
        ({"max_skipped_fraction": "1"}, "max_skipped_fraction must be from 0 to 1, got '1'"),
    ],
)
def test_options_of_the_wrong_type_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataset(numbered_batches(6, 4), **options)
