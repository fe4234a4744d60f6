"""Candidates that the reference was trained on: counted, warned of, and left out if asked."""

import json
import logging

import pytest
import torch

from jest_loader import (
    ColumnReference,
    EasyReference,
    Embeddings,
    ExampleScores,
    FrozenReference,
    IndependentSelector,
    JointSelector,
    Learnability,
    PerExample,
    Schedule,
    SeenRows,
    TopKSelector,
    UniformSelector,
)
from jest_loader.skipped import SkipRowsError
from jest_loader.testing.simulated_ranks import simulate_ranks
from tests.helpers import Counting, jest_dataset

SIZES = {"super_batch_size": 16, "sub_batch_size": 4}


class Memorised:
    """A reference that gives the lowest loss to what it has seen: each number below ``seen``."""

    def __init__(self, seen=4, every=16):
        self.num_seen, self.every = seen, every

    def embed(self, batch):
        rows = torch.eye(16)[batch["number"] % 16]
        text = torch.where(self.has_seen(batch)[:, None], rows, -rows)
        return Embeddings(rows, text, 10.0, -4.0)

    def has_seen(self, batch):
        return batch["number"] % self.every < self.num_seen


def make(reference=None, selector=None, num_batches=40, **options):
    scorer = EasyReference(reference or Memorised())
    selector = selector or IndependentSelector()
    return jest_dataset(Counting(num_batches, 4), scorer, selector, **{**SIZES, **options})


def warnings_in(caplog):
    return [line for line in caplog.messages if "the reference was trained on" in line]


def numbers(dataset):
    return [batch["number"].tolist() for batch in dataset]


def test_the_shares_of_what_the_reference_has_seen_are_told():
    dataset = make()
    chosen = numbers(dataset)
    assert all(number % 16 < 4 for batch in chosen for number in batch)
    assert dataset.stats.seen_candidates == 0.25
    assert dataset.stats.seen_chosen == 1
    assert dataset.stats.counts.seen == 4
    assert dataset.counts.seen == 40
    assert dataset.stats.to_dict()["seen_chosen"] == 1


def test_a_large_share_is_warned_of_once(caplog):
    with caplog.at_level(logging.WARNING):
        dataset = make()
        for _ in range(2):
            list(dataset)
    (text,) = warnings_in(caplog)
    assert text.startswith("25 % of a super-batch's candidates are examples that the reference was")
    assert "100 % of the chosen" in text
    assert "selection favours what it has memorised; leave them out with exclude_seen=True" in text


@pytest.mark.parametrize("dataset", [
    make(Memorised(4, every=100), super_batch_size=80),
    make(exclude_seen=True),
    make(schedule=Schedule(100, start_fraction=0.99)),
    make(selector=UniformSelector(), schedule=Schedule(100, start_fraction=0.99)),
], ids=["five per cent", "left out", "uniform steps", "uniform"])  # fmt: skip
def test_a_small_share_and_what_is_left_out_are_not(dataset, caplog):
    list(dataset)
    assert not caplog.messages


def test_without_a_record_nothing_is_said(caplog):
    class Unknown(Memorised):
        has_seen = None

        def embed(self, batch):
            rows = torch.eye(16)[batch["number"] % 16]
            return Embeddings(rows, rows, 10.0, -4.0)

    dataset = make(Unknown())
    list(dataset)
    assert (dataset.stats.seen_candidates, dataset.stats.seen_chosen) == (None, None)
    assert not caplog.messages
    with pytest.raises(ValueError, match=r"needs a reference that knows what it was trained on"):
        make(Unknown(), exclude_seen=True)


@pytest.mark.parametrize(
    "selector",
    [JointSelector(2), IndependentSelector(), TopKSelector(), UniformSelector()],
    ids=lambda selector: type(selector).__name__,
)
def test_what_was_seen_is_left_out(selector):
    dataset = make(selector=selector, exclude_seen=True)
    chosen = numbers(dataset)
    assert [len(batch) for batch in chosen] == [4] * 10
    assert all(number % 16 >= 4 for batch in chosen for number in batch)
    counts = dataset.counts
    assert (counts.seen, counts.scored, counts.trained, counts.skipped) == (40, 160, 40, 0)
    assert (dataset.stats.seen_candidates, dataset.stats.seen_chosen) == (0.25, 0)


def test_other_candidates_are_drawn_as_they_would_be_without_them():
    scored = make(Memorised(0, every=1000), IndependentSelector(), sub_batch_size=12)
    left = make(Memorised(4), IndependentSelector(), sub_batch_size=12, exclude_seen=True)
    for one, other in zip(numbers(scored), numbers(left), strict=True):
        assert [number for number in other if number in one] == [
            number for number in one if number % 16 >= 4
        ]


def test_too_few_left_is_told():
    with pytest.raises(
        ValueError,
        match=r"must leave at least the 4 candidates that are chosen, but leaves 3 of 16, for the "
        r"reference was trained on 13 of them; use a larger filter ratio \(super_batch_size\), or",
    ):
        list(make(Memorised(13), exclude_seen=True))
    uniform = make(Memorised(13), UniformSelector(), exclude_seen=True)
    with pytest.raises(ValueError, match="must leave at least the 4"):
        list(uniform)


def test_uniform_steps_leave_none_out():
    dataset = make(exclude_seen=True, schedule=Schedule(100, start_fraction=0.1), batch_size=4)
    chosen = numbers(dataset)
    uniform, selected = chosen[:10], chosen[10:]
    assert any(number % 16 < 4 for batch in uniform for number in batch)
    assert selected
    assert all(number % 16 >= 4 for batch in selected for number in batch)
    assert dataset.counts.seen == 4 * len(selected)


def test_chosen_rows_that_cannot_be_used_are_replaced_by_unseen_ones():
    def materialize(batch):
        bad = (batch["number"] % 16 == 7).nonzero()[:, 0].tolist()
        if bad:
            raise SkipRowsError(dict.fromkeys(bad, "torn"))
        return batch

    dataset = make(
        selector=TopKSelector(), exclude_seen=True, sub_batch_size=11, materialize=materialize,
        max_skipped_fraction=0.1,
    )  # fmt: skip
    for batch in dataset:
        assert sorted(number % 16 for number in batch["number"].tolist()) == [
            4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15
        ]  # fmt: skip


def test_rows_that_prepare_skips_are_neither_seen_nor_unseen():
    def prepare(batch):
        bad = (batch["number"] % 16 == 0).nonzero()[:, 0].tolist()
        if bad:
            raise SkipRowsError(dict.fromkeys(bad, "torn"))
        return batch

    dataset = make(prepare=prepare, exclude_seen=True, max_skipped_fraction=0.1)
    list(dataset)
    assert dataset.stats.seen_candidates == 3 / 15
    assert (dataset.counts.seen, dataset.counts.skipped) == (30, 10)


def test_candidates_of_which_it_is_not_known_cannot_be_left_out():
    class Sampled(Memorised):
        def embed(self, batch):
            rows = torch.eye(16)[batch["number"] % 16]
            return Embeddings(rows, rows, 10.0, -4.0)

        def has_seen(self, batch):
            number = batch["number"] % 16
            return torch.where(number < 8, (number < 2).long(), -1)

    dataset = make(Sampled())
    list(dataset)
    assert dataset.stats.seen_candidates == 2 / 8
    with pytest.raises(ValueError, match=r"of 8 of 16 it is not known, as where it was trained on"):
        list(make(Sampled(), exclude_seen=True))


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlap"])
def test_a_run_that_leaves_them_out_resumes_exactly(overlap):
    def fresh():
        return make(selector=JointSelector(2), exclude_seen=True, overlap=overlap)

    whole = numbers(fresh())
    for stop in range(1, 10):
        first, second = fresh(), fresh()
        iterator = iter(first)
        for _ in range(stop):
            next(iterator)
        state = json.loads(json.dumps(first.state_dict()))
        first.close()
        second.load_state_dict(state)
        assert numbers(second) == whole[stop:]
        assert second.counts.seen == 40
    with pytest.raises(ValueError, match=r"exclude_seen was True and is now False"):
        make(selector=JointSelector(2), overlap=overlap).load_state_dict(state)


@pytest.mark.parametrize("quota", ["equal", "global", "local"])
@pytest.mark.filterwarnings("ignore:.*quota='local'")
def test_ranks_leave_them_out_and_count_together(quota, caplog):
    def run(group):
        reference = Memorised(12 if group.rank == 0 else 0)
        dataset = make(
            reference, JointSelector(2, quota=quota), group=group, own_rows=True, exclude_seen=True
        )
        chosen = numbers(dataset)
        return chosen, dataset.counts.seen, dataset.stats.seen_candidates

    (first, *told), (_, *others) = simulate_ranks(2, run)
    assert told == others == [120, 12 / 32]
    if quota != "global":
        assert all(number % 16 >= 12 for batch in first for number in batch)
    assert not warnings_in(caplog)


@pytest.mark.parametrize(
    ("quota", "size", "num_seen", "left"),
    [("equal", 4, 14, 2), ("global", 10, 16, 8)],
    ids=["on one rank", "on all together"],
)
def test_where_one_rank_has_not_enough_all_are_told(quota, size, num_seen, left):
    def run(group):
        reference = Memorised(num_seen if group.rank == 1 else 0)
        selector = JointSelector(2, quota=quota)
        options = {"own_rows": True, "exclude_seen": True, "sub_batch_size": size}
        with pytest.raises(ValueError, match=rf"leave at least the {size} .* leaves {left} of 16"):
            list(make(reference, selector, group=group, **options))

    simulate_ranks(2, run)


def test_one_rank_warns_for_all(caplog):
    simulate_ranks(3, lambda group: list(make(group=group, own_rows=True)))
    assert len(warnings_in(caplog)) == 1


class Towers(torch.nn.Module):
    def embed(self, batch):
        rows = torch.eye(16)[batch["number"] % 16]
        return Embeddings(rows, rows, 10.0, -4.0)


def loss(model, batch):
    return torch.zeros(len(batch["number"]))


class Losses:
    def values(self, batch):
        return torch.zeros(len(batch["number"]))

    def has_seen(self, batch):
        return batch["number"] % 2 == 0


def test_references_are_told_what_they_were_trained_on():
    seen = SeenRows(range(0, 160, 2), column="number")
    live = FrozenReference(Towers(), seen=seen)
    column = ColumnReference("rows", "rows", logit_scale=10.0, logit_bias=-4.0, seen=seen)
    per_example = PerExample(torch.nn.Linear(1, 1), loss, Losses())
    for scorer in (EasyReference(live), Learnability(live, live), per_example):
        dataset = jest_dataset(Counting(8, 4), scorer, IndependentSelector(), **SIZES)
        list(dataset)
        assert dataset.stats.seen_candidates == 0.5
    assert column.has_seen is seen
    with pytest.raises(ValueError, match=r"of sample ids SeenRows\(ids\) is one"):
        FrozenReference(Towers(), seen=[1, 2])


def test_scores_of_no_reference_know_nothing():
    class Alone:
        def score(self, super_batch):
            return ExampleScores(torch.zeros(16))

    with pytest.raises(ValueError, match=r"knows what it was trained on, got Alone with none"):
        jest_dataset(Counting(8, 4), Alone(), TopKSelector(), exclude_seen=True, **SIZES)
