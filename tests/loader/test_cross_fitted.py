"""References that were each trained without a fold score whole super-batches, in turn."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from jest_loader import (
    CachedReference,
    CrossFitted,
    EasyReference,
    Embeddings,
    FrozenReference,
    IndependentSelector,
    JointSelector,
    Learnability,
    Schedule,
)
from jest_loader.testing.simulated_ranks import simulate_ranks
from tests.helpers import Counting, jest_dataset, random_embeddings

SIZES = {"super_batch_size": 16, "sub_batch_size": 4}
FOLDS = 2


class Fold:
    """A reference that was trained on all but every second row, and notes what it embeds."""

    def __init__(self, number, of=FOLDS):
        self.number, self.of = number, of
        self.embedded = []
        self.side = random_embeddings(4000, 8, seed=number, logit_scale=20.0, dtype=torch.float32)

    def embed(self, batch):
        rows = batch["number"]
        self.embedded.append(rows.tolist())
        return Embeddings(self.side.image[rows], self.side.text[rows], 20.0, -5.0)

    def has_seen(self, batch):
        return batch["number"] % self.of != self.number


def make(references=None, num_batches=160, scorer=EasyReference, **options):
    references = references or [Fold(0), Fold(1)]
    return jest_dataset(
        Counting(num_batches, 4),
        scorer(CrossFitted(references)),
        options.pop("selector", JointSelector(2)),
        **{**SIZES, **options},
    )


def numbers(dataset):
    return [batch["number"].tolist() for batch in dataset]


def test_one_that_has_not_seen_what_is_chosen_scores_a_super_batch():
    references = [Fold(0), Fold(1)]
    chosen = numbers(make(references))
    turns = [batch[0] % 2 for batch in chosen]
    assert all(
        number % 2 == turn for batch, turn in zip(chosen, turns, strict=True) for number in batch
    )
    assert 8 <= sum(turns) <= 32  # Of 40 fair turns.
    for number, reference in enumerate(references):
        assert [len(rows) for rows in reference.embedded] == [16] * turns.count(number)


def test_what_it_has_seen_is_counted_and_left_out():
    dataset = make()
    list(dataset)
    assert (dataset.stats.seen_candidates, dataset.stats.seen_chosen) == (0.5, 0)
    assert dataset.counts.seen == 40 * 8


def test_it_chooses_as_the_one_whose_turn_it_is_does_alone():
    chosen = numbers(make())
    for number in range(2):
        alone = jest_dataset(
            Counting(160, 4),
            EasyReference(Fold(number)),
            JointSelector(2),
            exclude_seen=True,
            **SIZES,
        )
        for one, other in zip(chosen, numbers(alone), strict=True):
            if one[0] % 2 == number:
                assert one == other


def test_turns_do_not_fall_in_with_a_schedule():
    schedule = Schedule(1000, uniform_every=2)
    references = [Fold(0), Fold(1)]
    list(make(references, 200, schedule=schedule, batch_size=4))
    assert all(len(reference.embedded) >= 5 for reference in references)


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlap"])
def test_a_run_goes_on_with_the_same_turns(overlap):
    whole = numbers(make(overlap=overlap, num_batches=40))
    for stop in (1, 4, 9):
        first, second = (make(overlap=overlap, num_batches=40) for _ in range(2))
        iterator = iter(first)
        for _ in range(stop):
            next(iterator)
        state = json.loads(json.dumps(first.state_dict()))
        first.close()
        second.load_state_dict(state)
        assert numbers(second) == whole[stop:]


def test_ranks_take_the_same_turn():
    def run(group):
        return numbers(make(group=group, own_rows=True, selector=JointSelector(2)))

    first, second = simulate_ranks(2, run)
    assert [batch[0] % 2 for batch in first] == [batch[0] % 2 for batch in second]
    assert len({batch[0] % 2 for batch in first}) == 2


class Sized(Fold):
    trained_batch_size = 64
    size = None

    def at_sub_batch_size(self, size):
        found = Sized(self.number)
        found.size = size
        return found


def test_learnability_and_batch_sizes_reach_each_reference():
    fitted: Any = CrossFitted([Sized(0), Sized(1)])
    assert fitted.trained_batch_size == 64
    assert [one.size for one in fitted.at_sub_batch_size(4).references] == [4, 4]
    assert CrossFitted([Sized(0), Fold(1)]).trained_batch_size is None
    dataset = make(scorer=lambda reference: Learnability(Fold(7), reference))
    assert len(numbers(dataset)) == 40


def test_where_a_batch_size_is_not_known_it_is_said_who_must_be_given_it(caplog):
    make()
    (text,) = (record.getMessage() for record in caplog.records)
    assert "give each reference of CrossFitted trained_batch_size" in text


def test_cached_references_take_turns():
    side = random_embeddings(64, 8, seed=0)
    caches = [
        CachedReference(
            side.image, side.text, 20.0, -5.0, seen=np.arange(64) % 2 != number, id_column="number"
        )
        for number in range(2)
    ]
    chosen = numbers(make(caches, 16, selector=IndependentSelector()))
    assert all(len({number % 2 for number in batch}) == 1 for batch in chosen)


def test_what_cannot_be_cross_fitted_is_refused():
    with pytest.raises(ValueError, match=r"at least two references, .* got 1"):
        CrossFitted([Fold(0)])
    with pytest.raises(
        ValueError, match=r"reference 1 of CrossFitted must be an embedder, got int"
    ):
        CrossFitted([Fold(0), 3])  # type: ignore[list-item]
    unknown = FrozenReference(torch.nn.Linear(1, 1), lambda model, batch: None)
    with pytest.raises(
        ValueError, match=r"reference 1, a FrozenReference, does not; say it as seen="
    ):
        CrossFitted([Fold(0), unknown])
    with pytest.raises(ValueError, match=r"embed by turns, of which a JestDataset tells them"):
        CrossFitted([Fold(0), Fold(1)]).embed({"number": torch.arange(3)})


def test_what_all_have_seen_is_known():
    batch = {"number": torch.arange(6)}
    assert CrossFitted([Fold(0), Fold(1)]).has_seen(batch).tolist() == [0] * 6
    assert CrossFitted([Fold(0, of=3), Fold(1, of=3)]).has_seen(batch).tolist() == [0, 0, 1] * 2
