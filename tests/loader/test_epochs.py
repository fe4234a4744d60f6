"""Passes are consecutive epochs, each with its own draw."""

import pytest

from jest_loader import (
    UniformSelector,
)
from tests.helpers import Counting, jest_dataset, numbered_batches
from tests.loader.builders import dataset, numbers


def test_each_epoch_draws_anew_and_the_same_seed_draws_the_same():
    def run(seed):
        data = jest_dataset(
            numbered_batches(4, 8), None, UniformSelector(), super_batch_size=16, sub_batch_size=5,
            seed=seed,
        )  # fmt: skip
        return [numbers(data) for _ in range(3)]

    first, second = run(0), run(1)
    assert first == run(0)
    assert len({str(epoch) for epoch in first + second}) == 6


def test_passes_are_consecutive_epochs_also_after_a_break():
    source = Counting(4, 4)
    data = dataset(source, sub_batch_size=1)
    assert numbers(data) == [[7], [15]]
    for batch in data:
        assert batch["number"].tolist() == [23]
        break
    assert numbers(data) == [[39], [47]]


def test_set_epoch_starts_that_epoch_and_is_nothing_when_in_it():
    data = dataset(Counting(4, 4), sub_batch_size=1)
    data.set_epoch(5)
    assert numbers(data) == [[87], [95]]
    data.set_epoch(6)
    iterator = iter(data)
    assert next(iterator)["number"].tolist() == [103]
    data.set_epoch(6)
    assert next(iterator)["number"].tolist() == [111]
    data.set_epoch(0)
    assert numbers(data) == [[7], [15]]
    state = data.state_dict()
    assert state["epoch"] == 1
    data.set_epoch(1)
    data.load_state_dict(state)
    data.set_epoch(1)
    assert numbers(data) == [[23], [31]]


def test_set_epoch_keeps_a_loaded_position_in_that_epoch():
    data = dataset(Counting(4, 4), sub_batch_size=1)
    next(iter(data))
    state = data.state_dict()
    for epoch, expected in ((0, [[15]]), (2, [[39], [47]])):
        resumed = dataset(Counting(4, 4), sub_batch_size=1)
        resumed.load_state_dict(state)
        resumed.set_epoch(epoch)
        assert numbers(resumed) == expected


def test_an_older_iterator_ends_with_an_error():
    data = dataset(Counting(6, 4))
    older = iter(data)
    next(older)
    next(iter(data))
    with pytest.raises(RuntimeError, match="use the newest iterator"):
        next(older)
    current = iter(data)
    next(current)
    data.load_state_dict(data.state_dict())
    with pytest.raises(RuntimeError, match="use the newest iterator"):
        next(current)


def test_the_epoch_is_known_after_a_resume():
    data = dataset(Counting(4, 4), sub_batch_size=1)
    list(data)
    next(iter(data))
    resumed = dataset(Counting(4, 4), sub_batch_size=1)
    resumed.load_state_dict(data.state_dict())
    delivered = []
    for epoch in range(resumed.epoch, 3):
        resumed.set_epoch(epoch)
        delivered += numbers(resumed)
    assert delivered == [[31], [39], [47]]


def test_a_generator_can_be_read_once():
    data = dataset(batch for batch in numbered_batches(2, 4))
    assert len(list(data)) == 1
    with pytest.raises(ValueError, match=r"no batch in epoch 1; a generator can be read only once"):
        list(data)
