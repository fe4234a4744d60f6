"""A learner that has passed the reference is told of: learnability is then below zero."""

import logging

import pytest
import torch

from jest_loader import (
    EasyReference,
    Embeddings,
    HardLearner,
    IndependentSelector,
    Learnability,
    PerExample,
    Schedule,
)
from jest_loader.testing.simulated_ranks import simulate_ranks
from tests.helpers import Counting, jest_dataset

SIZES = {"super_batch_size": 8, "sub_batch_size": 4}
BEHIND, REFERENCE, AHEAD = 5.0, 10.0, 20.0


class Scaled:
    """Embeds each candidate as itself; the larger the scale, the lower the loss."""

    def __init__(self, scale):
        self.scale = scale

    def embed(self, batch):
        rows = torch.eye(8)[batch["number"] % 8]
        return Embeddings(rows, rows, self.scale, -4.0)


def learnability(scale=AHEAD):
    return Learnability(Scaled(scale), Scaled(REFERENCE))


def make(scorer, num_batches=400, **options):
    return jest_dataset(Counting(num_batches, 4), scorer, IndependentSelector(), **SIZES, **options)


def past_by_step(dataset, scale_at=lambda step: AHEAD):
    """Steps past the reference after each step, where the learner is of ``scale_at(step)``."""
    found = []
    dataset.scorer.learner.scale = scale_at(0)
    for step, _ in enumerate(dataset, start=1):
        found.append(dataset.stats.steps_past_reference)
        dataset.scorer.learner.scale = scale_at(step)
    return found


def warnings_in(caplog):
    return [line for line in caplog.messages if "the learner has passed the reference" in line]


def test_steps_past_the_reference_are_counted_by_looks(caplog):
    found = past_by_step(
        make(learnability()), lambda step: BEHIND if step < 45 or 150 <= step < 165 else AHEAD
    )
    assert found[19::20] == [0, 0, 20, 40, 60, 80, 100, 0, 20, 40]  # After steps 20, 40, ...
    assert found[57:61] == [0, 0, 20, 20]
    assert len(warnings_in(caplog)) == 1


def test_a_long_way_past_the_reference_is_warned_of_once(caplog):
    dataset = make(learnability(), num_batches=240)
    with caplog.at_level(logging.WARNING):
        for step, _ in enumerate(dataset, start=1):
            assert len(warnings_in(caplog)) == (step >= 100)
        dataset.scorer.learner.scale = BEHIND
        list(dataset)
        dataset.scorer.learner.scale = AHEAD
        list(dataset)
    (text,) = warnings_in(caplog)
    assert "end selection here (stop_fraction of a Schedule), or use a stronger reference" in text


def test_a_reference_that_stays_ahead_is_not_warned_of(caplog):
    assert set(past_by_step(make(learnability()), lambda step: BEHIND)) == {0}
    assert not caplog.messages


def test_uniform_steps_do_not_keep_it_from_being_seen():
    schedule = Schedule(200, uniform_every=20)
    assert past_by_step(make(learnability(), schedule=schedule))[99] == 100
    never = Schedule(200, start_fraction=0.99)
    assert set(past_by_step(make(learnability(), 100, schedule=never))) == {0}


def loss(model, batch):
    return model.weight.detach().expand(len(batch["number"]), 1)[:, 0].clone()


def test_losses_of_any_model_are_compared_too():
    model, reference = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, 0.5)
    torch.nn.init.constant_(reference.weight, 1.0)
    dataset = make(PerExample(model, loss, PerExample(reference, loss)))
    list(dataset)
    assert dataset.stats.steps_past_reference == 200


@pytest.mark.parametrize("name", ["easy reference", "hard learner", "loss alone"])
def test_a_score_of_one_model_alone_says_nothing(name, caplog):
    scorer = {
        "easy reference": EasyReference(Scaled(REFERENCE)),
        "hard learner": HardLearner(Scaled(AHEAD)),
        "loss alone": PerExample(torch.nn.Linear(1, 1), loss),
    }[name]
    dataset = make(scorer)
    list(dataset)
    assert dataset.stats.steps_past_reference is None
    assert not caplog.messages


def test_the_count_goes_on_from_a_state():
    whole = past_by_step(make(learnability()))
    for stop in (19, 59):
        first, second = make(learnability()), make(learnability())
        for step, _ in enumerate(first, start=1):
            if step == stop:
                break
        second.load_state_dict(first.state_dict())
        assert past_by_step(second) == whole[stop:]


def test_the_count_goes_on_in_the_next_epoch():
    dataset = make(learnability(), num_batches=60)
    assert [past_by_step(dataset)[-1] for _ in range(3)] == [20, 60, 80]


@pytest.mark.parametrize(("num_ahead", "past"), [(1, 0), (2, 100)], ids=["few", "most"])
def test_most_ranks_decide_for_all_and_one_tells(num_ahead, past, caplog):
    def run(group):
        ahead = group.rank < num_ahead
        dataset = make(learnability(AHEAD if ahead else BEHIND), 200, group=group, own_rows=True)
        list(dataset)
        return dataset.stats.steps_past_reference

    assert simulate_ranks(3, run) == [past] * 3
    assert len(warnings_in(caplog)) == past / 100
