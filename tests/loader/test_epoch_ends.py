"""A loop that leaves each epoch after its length, as frameworks do, resumes exactly."""

import copy

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler

from tests.helpers import Counting
from tests.loader.builders import Rows, dataset

NUM_EPOCHS = 3


def shuffled(num_rows, num_workers=0):
    rows = Rows(num_rows)
    sampler = RandomSampler(rows, generator=torch.Generator().manual_seed(3))
    return StatefulDataLoader(rows, batch_size=4, sampler=sampler, num_workers=num_workers)


SOURCES = {
    "nothing left over": lambda: shuffled(32),
    "rows left over": lambda: shuffled(39),
    "workers": lambda: shuffled(30, num_workers=2),
    "of epochs": lambda: Counting(7, 4),
}


def run(data, epochs, *, num_batches, start=0):
    """The numbers and states of a loop over epochs, each left once it has had its length."""
    for epoch in epochs:
        data.set_epoch(epoch)
        batches = iter(data)
        for _ in range(start, num_batches):
            yield next(batches)["number"].tolist(), copy.deepcopy(data.state_dict())
        start = 0


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("num_batches", [3, 2], ids=["whole", "limited"])
def test_states_of_every_step_go_on_as_the_loop_did(source, num_batches):
    torch.manual_seed(0)
    expected = [*run(dataset(SOURCES[source]()), range(NUM_EPOCHS), num_batches=num_batches)]
    step = 3 if source == "workers" else 1  # Processes take their time.
    for done in range(1, len(expected), step):
        resumed = dataset(SOURCES[source]())
        resumed.load_state_dict(expected[done - 1][1])
        epoch, start = divmod(done, num_batches)
        rest = [*run(resumed, range(epoch, NUM_EPOCHS), num_batches=num_batches, start=start)]
        assert [numbers for numbers, _ in rest] == [numbers for numbers, _ in expected[done:]]
        assert rest[-1][1]["counts"] == expected[-1][1]["counts"]


def test_a_state_between_epochs_goes_on_with_the_next_one():
    def left_after_two():
        data = dataset(shuffled(39))
        batches = iter(data)
        next(batches), next(batches)
        data.set_epoch(1)
        return data

    data, resumed = left_after_two(), dataset(shuffled(39))
    resumed.load_state_dict(copy.deepcopy(data.state_dict()))
    for _ in range(2):  # A state that was loaded and not used is the same one.
        again = dataset(shuffled(39))
        again.load_state_dict(copy.deepcopy(resumed.state_dict()))
        resumed = again
    assert [b["number"].tolist() for b in resumed] == [b["number"].tolist() for b in data]


@pytest.mark.parametrize("value", [1, "yes", None, True], ids=["one", "text", "none", "within"])
def test_a_state_that_says_otherwise_is_refused(value):
    data = dataset(Counting(4, 4))
    next(iter(data))
    state = {**data.state_dict(), "left_early": value}
    with pytest.raises(ValueError, match="left_early must be True or False, and True only at the"):
        dataset(Counting(4, 4)).load_state_dict(state)
