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
    assert text.endswith(
        "where it is weak, use a stronger one or end selection here, with "
        "until='reference_passed' of a Schedule"
    )


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


@pytest.mark.parametrize(
    ("num_ahead", "num_ranks", "past"),
    [(1, 3, 0), (1, 2, 0), (2, 3, 100)],
    ids=["few", "half", "most"],
)
def test_most_ranks_decide_for_all_and_one_tells(num_ahead, num_ranks, past, caplog):
    def run(group):
        ahead = group.rank < num_ahead
        dataset = make(learnability(AHEAD if ahead else BEHIND), 200, group=group, own_rows=True)
        list(dataset)
        return dataset.stats.steps_past_reference

    assert simulate_ranks(num_ranks, run) == [past] * num_ranks
    assert len(warnings_in(caplog)) == past / 100


UNTIL = Schedule(1000, until="reference_passed")


class Copied(Scaled):
    def snapshot(self):
        return Copied(self.scale)


def until_passed(num_batches=240, **options):
    scorer = Learnability(Copied(AHEAD), Scaled(REFERENCE))
    known = {"batch_size": 4, "num_examples": 4 * num_batches}
    return make(scorer, num_batches, schedule=UNTIL, **known, **options)


def rows_and_scored(dataset, num_epochs):
    """Of each step the rows delivered, and how many candidates were scored and loaded."""
    found = []
    for _ in range(num_epochs):
        for batch in dataset:
            counts = dataset.stats.counts
            found.append((batch["number"].tolist(), counts.scored, counts.loaded))
    return found


def test_a_schedule_ends_selection_there(caplog):
    dataset = until_passed()
    assert len(dataset) == 120
    first, second = rows_and_scored(dataset, 1), rows_and_scored(dataset, 1)
    assert [scored for _, scored, _ in first] == [8] * 101 + [0] * 19
    assert [loaded for _, _, loaded in first] == [8] * 120
    assert [step[1:] for step in second] == [(0, 4)] * 240
    assert len(dataset) == 240
    assert dataset.stats.steps_past_reference == 100
    (text,) = warnings_in(caplog)
    assert text.endswith("the schedule ends selection here")


def test_uniform_steps_after_selection_draw_from_all_candidates():
    late = [rows for rows, scored, _ in rows_and_scored(until_passed(480), 1) if scored == 0]
    places = [row % 8 for rows in late for row in rows]
    assert min(places.count(place) for place in range(8)) > 50  # Of 139 draws of four in eight.


def test_an_epoch_that_begins_after_it_reads_no_more_than_it_trains_on():
    found = rows_and_scored(until_passed(200), 2)  # The fifth look is in the first one's last step.
    assert [scored for _, scored, _ in found] == [8] * 100 + [0] * 200
    assert [loaded for _, _, loaded in found] == [8] * 100 + [4] * 200


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlap"])
def test_runs_resumed_around_it_go_on_exactly(overlap):
    whole = rows_and_scored(until_passed(210, overlap=overlap), 2)
    assert sum(scored > 0 for _, scored, _ in whole) == 101
    for stop in (98, 99, 100, 101, 102, 105, 130):
        first, second = (until_passed(210, overlap=overlap) for _ in range(2))
        iterator = (batch for _ in range(2) for batch in first)
        for _ in range(stop):
            next(iterator)
            state = first.state_dict()  # With overlap the next is then chosen once more.
        first.close()
        second.load_state_dict(state)
        assert rows_and_scored(second, 2 - state["epoch"]) == whole[stop:]


def test_all_ranks_end_selection_at_the_same_step():
    def run(group):
        dataset = until_passed(group=group, own_rows=True)
        dataset.scorer.learner.scale = AHEAD if group.rank < 2 else BEHIND
        return [scored for _, scored, _ in rows_and_scored(dataset, 1)]

    assert simulate_ranks(3, run) == [[24] * 101 + [0] * 19] * 3


def test_a_scorer_that_compares_nothing_cannot_end_selection():
    with pytest.raises(ValueError, match=r"compares a learner with a reference, got EasyReference"):
        make(EasyReference(Scaled(REFERENCE)), schedule=UNTIL)
    with pytest.raises(ValueError, match=r"must be 'reference_passed' or None, got 'passed'"):
        Schedule(10, until="passed")


def test_a_states_end_of_selection_is_checked():
    dataset = until_passed()
    state = {**dataset.state_dict(), "selection_ends": -1}
    with pytest.raises(ValueError, match=r"selection_ends must be a whole number of at least 0"):
        dataset.load_state_dict(state)
