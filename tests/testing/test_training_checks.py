"""check_training passes a loop that holds, and names what each broken one does."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from jest_loader.testing.conformance import Trained, check_training
from tests.frameworks.toy import TwoTower, dataset

NUM_EPOCHS, STEPS = 2, 4


def train(state=None, *, change=lambda trained: trained, forget=(), model_seed=1):
    """A loop of one's own; ``forget`` are the parts of a state that it does not restore."""
    model = TwoTower(model_seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = dataset(model)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "dataset": data}
    for name in parts if state else ():
        if name not in forget:
            parts[name].load_state_dict(state[name])
    rows, states = [], []

    def save():
        done = data.state_dict()["num_steps"]
        states.append((done, copy.deepcopy({n: part.state_dict() for n, part in parts.items()})))

    for epoch in range(data.epoch, NUM_EPOCHS):
        data.set_epoch(epoch)
        for batch in data:
            rows.append(batch["id"].tolist())
            optimizer.zero_grad()
            model(batch).backward()
            optimizer.step()
            save()
        save()
    return change(Trained([rows], states, model.state_dict()))


def test_a_loop_that_restores_all_passes():
    whole = check_training(train, steps_per_epoch=STEPS)
    assert len(whole.rows[0]) == NUM_EPOCHS * STEPS


@pytest.mark.parametrize(
    ("forgotten", "message"),
    [
        (
            "dataset",
            r"resumed after 1 steps, rank 0 did 8 more, not 7; restore the loop's position",
        ),
        ("model", r"resumed after \d steps, (rank 0 trained on other rows|the weights at the end)"),
        (
            "optimizer",
            r"resumed after \d steps, (rank 0 trained|the weights at the end are others)",
        ),
    ],
)
def test_a_part_that_is_not_restored_is_noticed(forgotten, message):
    with pytest.raises(AssertionError, match=message):
        check_training(lambda state: train(state, forget=[forgotten]))


def two_ranks(second):
    """Six steps on two ranks; ``second(step)`` are the rows of the second."""
    rows = [[[4 * step, 4 * step + 1] for step in range(6)], [second(step) for step in range(6)]]
    states = [(done, done) for done in range(1, 6)]

    def run(state):
        return Trained([steps[state or 0 :] for steps in rows], states)

    return run


def others(step):
    return [4 * step + 2, 4 * step + 3]


def test_two_ranks_with_rows_of_their_own_pass():
    check_training(two_ranks(others), steps_per_epoch=3)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda step: [4 * step + 1, 4 * step + 2], r"step 0 has row 1 in rank 0 and in rank 1"),
        (lambda step: [4 * (step % 2) + 2, 3], r"epoch 0 has row 3 in step 0 and in step 1"),
    ],
    ids=["in a step", "in an epoch"],
)
def test_a_row_on_two_ranks_or_twice_in_an_epoch_is_noticed(second, message):
    with pytest.raises(AssertionError, match=message):
        check_training(two_ranks(second), steps_per_epoch=3)


def test_epochs_that_repeat_or_have_no_state_at_their_end_are_noticed():
    whole = two_ranks(others)(None)
    again = [steps[:3] * 2 for steps in whole.rows]
    with pytest.raises(AssertionError, match=r"epoch 1 has the sub-batches of another; tell"):
        check_training(lambda state: replace(whole, rows=again), steps_per_epoch=3)
    states = [(2, 2)]
    with pytest.raises(AssertionError, match=r"no state was saved after step 3, at an epoch's end"):
        check_training(lambda state: replace(whole, states=states), steps_per_epoch=3)


def test_a_loop_that_is_not_the_same_again_is_noticed():
    seeds = iter(range(9))
    with pytest.raises(AssertionError, match=r"run again after 0 steps, "):
        check_training(lambda state: train(state, model_seed=next(seeds)))


def test_ranks_out_of_step_and_loops_without_states_are_noticed():
    whole = two_ranks(others)(None)
    uneven = replace(whole, rows=[whole.rows[0], whole.rows[1][:5]])
    with pytest.raises(AssertionError, match=r"the same number of steps, got \[6, 5\]"):
        check_training(lambda state: uneven)
    with pytest.raises(ValueError, match=r"run must save states to go on from, got none"):
        check_training(lambda state: replace(whole, states=[]))
