"""The state of JestDataset: small, plain, and exact where a run goes on from it."""

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler

from jest_loader import (
    IndependentSelector,
    JointSelector,
    UniformSelector,
)
from jest_loader.testing import assert_resumes_exactly, batches_equal
from tests.helpers import Counting, jest_dataset
from tests.loader.builders import ByNumber, Rows, dataset, numbers


def test_state_is_small_plain_json_of_the_last_batch_delivered():
    data = dataset(Counting(6, 4))
    before = data.state_dict()
    iterator = iter(data)
    next(iterator)
    state = data.state_dict()
    assert before["super_batches"] == 0
    assert (state["epoch"], state["super_batches"]) == (0, 1)
    assert state["source"] == {"epoch": 0, "position": 2}
    assert json.loads(json.dumps(state)) == state
    assert len(json.dumps(state)) < 4096
    assert data.state_dict(num_samples=4, from_beginning=True) == state


@pytest.mark.parametrize("has_epochs", [True, False], ids=["epochs", "passes"])
def test_no_samples_of_an_epoch_stand_for_the_start_of_the_next(has_epochs):
    """Composer leaves an epoch after its length, and says so by the samples of the next one."""

    def make():
        source = Counting(6, 4) if has_epochs else StatefulDataLoader(Rows(24), batch_size=4)
        return dataset(source)

    data = make()
    assert data.state_dict(num_samples=0)["epoch"] == 0
    iterator = iter(data)
    for _ in range(3):
        next(iterator)
    state = data.state_dict(num_samples=0)
    assert (state["epoch"], state["super_batches"]) == (1, 0)
    resumed = make()
    resumed.load_state_dict(state)
    assert batches_equal(list(resumed), list(data))


@pytest.mark.parametrize("selector", [JointSelector(), IndependentSelector(), UniformSelector()])
def test_resume_is_exact_from_every_position(selector):
    assert_resumes_exactly(
        lambda: dataset(Counting(7, 4), selector, sub_batch_size=3), num_epochs=3
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_is_exact_around_a_stateful_dataloader(num_workers):
    rows = Rows(39)

    def make():
        sampler = RandomSampler(rows, generator=torch.Generator().manual_seed(3))
        loader = StatefulDataLoader(rows, batch_size=4, sampler=sampler, num_workers=num_workers)
        return dataset(loader, JointSelector(2), sub_batch_size=3)

    assert_resumes_exactly(make, num_epochs=2 if num_workers else 3)


def test_the_resume_check_catches_a_source_that_forgets():
    class Forgetful(Counting):
        def load_state_dict(self, state_dict):
            super().load_state_dict({**state_dict, "position": max(0, state_dict["position"] - 1)})

    with pytest.raises(AssertionError, match="resumed after"):
        assert_resumes_exactly(lambda: dataset(Forgetful(6, 4)))


def test_the_resume_check_refuses_to_check_nothing():
    with pytest.raises(ValueError, match="num_epochs must be a whole number of at least 1, got 0"):
        assert_resumes_exactly(lambda: dataset(Counting(6, 4)), num_epochs=0)
    always_the_same = dataset(Counting(6, 4))
    with pytest.raises(ValueError, match="make must return a new dataset each time"):
        assert_resumes_exactly(lambda: always_the_same)


def test_a_state_saved_before_the_first_batch_is_the_one_that_was_loaded():
    source = Counting(10, 4)
    before = dataset(source)
    batches = iter(before)
    next(batches), next(batches)
    state = before.state_dict()
    after = dataset(Counting(10, 4))
    after.load_state_dict(state)
    assert after.state_dict() == state
    after.close()
    assert after.state_dict() == state


def test_a_loaded_state_is_used_once():
    data = dataset(Counting(4, 4), sub_batch_size=1)
    next(iter(data))
    resumed = dataset(Counting(4, 4), sub_batch_size=1)
    resumed.load_state_dict(data.state_dict())
    assert numbers(resumed) == [[15]]
    assert numbers(resumed) == [[23], [31]]
    assert resumed.counts.trained == 4


@pytest.mark.parametrize("num_workers", [0, 2])
def test_rollback_to_before_the_first_batch_of_a_shuffled_loader(num_workers):
    loader = StatefulDataLoader(Rows(40), batch_size=4, shuffle=True, num_workers=num_workers)
    data = dataset(loader)
    state = data.state_dict()
    expected = numbers(data)
    data.load_state_dict(state)
    assert numbers(data) == expected


def test_rollback_in_the_same_process():
    data = dataset(Counting(6, 4))
    iterator = iter(data)
    next(iterator)
    state = data.state_dict()
    expected = next(iterator)
    list(data)
    for _ in range(2):
        data.load_state_dict(state)
        assert batches_equal(next(iter(data)), expected)


def test_an_exception_in_the_training_loop_leaves_the_dataset_usable():
    data = dataset(Counting(6, 4), sub_batch_size=1)

    def train():
        for batch in data:
            if batch["number"].item() == 15:
                raise KeyError("the user's own")

    with pytest.raises(KeyError):
        train()
    state = data.state_dict()
    resumed = dataset(Counting(6, 4), sub_batch_size=1)
    resumed.load_state_dict(state)
    assert numbers(resumed) == [[23]]


def test_whole_numbers_of_numpy_make_a_plain_state():
    data = dataset(Counting(4, 4), super_batch_size=np.int64(8), seed=np.int32(3))
    next(iter(data))
    assert json.loads(json.dumps(data.state_dict()))["counts"]["loaded"] == 8


def test_a_scorers_own_loss_function_is_not_part_of_the_state():
    class WithLoss(ByNumber):
        def __init__(self):
            self.loss = torch.nn.CrossEntropyLoss(reduction="none")

    def make():
        return jest_dataset(Counting(4, 4), WithLoss(), super_batch_size=8, sub_batch_size=4)

    state = json.loads(json.dumps(make().state_dict()))
    make().load_state_dict(state)


def test_a_state_without_its_sources_is_refused():
    data = dataset(Counting(4, 4))
    next(iter(data))
    state = {**data.state_dict(), "source": None}
    with pytest.raises(ValueError, match="must hold the source's state after 1 super-batches, but"):
        dataset(Counting(4, 4)).load_state_dict(state)
    with pytest.raises(ValueError, match="must have version 6, got NoneType"):
        dataset(Counting(4, 4)).load_state_dict(None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "must have version 6, got 0"),
        (
            {"configuration": {"super_batch_size over all ranks": 16}},
            "super_batch_size over all ranks was 16 and is now 8",
        ),
        ({"counts": None}, "it lacks counts"),
    ],
)
def test_states_that_do_not_fit_are_refused(change, message):
    state = dataset(Counting(4, 4)).state_dict()
    for name, value in change.items():
        if value is None:
            del state[name]
        elif isinstance(value, dict):
            state[name].update(value)
        else:
            state[name] = value
    with pytest.raises(ValueError, match=message):
        dataset(Counting(4, 4)).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"source": Counting(8, 2)}, "source batch size over all ranks was 4 and is now 2"),
        ({"sub_batch_size": 2}, "sub_batch_size over all ranks was 4 and is now 2"),
        ({"selector": JointSelector(8)}, "selector was TopKSelector and is now JointSelector"),
    ],
)
def test_another_configuration_is_refused(options, message):
    state = dataset(Counting(4, 4)).state_dict()
    options = {"source": Counting(4, 4), **options}
    with pytest.raises(ValueError, match=message):
        dataset(**options).load_state_dict(state)


def test_a_source_without_state_says_so_and_what_to_use():
    data = dataset(DataLoader(Rows(16), batch_size=4))
    for use in (data.state_dict, lambda: data.load_state_dict({})):
        with pytest.raises(ValueError, match=r"of a DataLoader can be neither.*StatefulDataLoader"):
            use()
