"""SelectionStats: what a sub-batch is worth, and where its time went."""

import json
import time
from typing import Any

import pytest
import torch

from jest_loader import (
    Counts,
    Embeddings,
    ExampleScores,
    FactoredScores,
    IndependentSelector,
    JointSelector,
    Options,
    SkipRowsError,
    UniformSelector,
)
from tests.helpers import jest_dataset, numbered_batches, random_embeddings
from tests.published import sigmoid_pairwise, softmax_loss

SIZES = {"super_batch_size": 60, "sub_batch_size": 12}


class Fixed:
    """Scores rows by fixed embeddings of a learner and a reference."""

    def __init__(self, loss="sigmoid"):
        bias = -3.0 if loss == "sigmoid" else None
        self.loss = loss
        self.learner = random_embeddings(120, 7, seed=1, logit_scale=12.0, logit_bias=bias)
        self.reference = random_embeddings(120, 5, seed=2, logit_scale=20.0, logit_bias=bias)

    def sides(self, numbers):
        return [
            Embeddings(side.image[numbers], side.text[numbers], side.logit_scale, side.logit_bias)
            for side in (self.learner, self.reference)
        ]

    def score(self, super_batch):
        return FactoredScores(*self.sides(super_batch["number"]), self.loss)


def learnability(sides, loss):
    """The learner's loss on a batch less the reference's, per example, by the published forms."""

    def batch_loss(side):
        image, text = side.image.numpy(), side.text.numpy()
        if loss == "sigmoid":
            return sigmoid_pairwise(image, text, side.logit_scale, side.logit_bias).sum() / len(
                image
            )
        rows = list(range(len(image)))
        return sum(softmax_loss(image, text, side.logit_scale, rows, row) for row in rows) / len(
            rows
        )

    learner, reference = sides
    return batch_loss(learner) - batch_loss(reference)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_the_score_is_the_learners_loss_less_the_references(loss):
    scorer = Fixed(loss)
    dataset = jest_dataset(numbered_batches(12, 10), scorer, JointSelector(3), **SIZES)
    for batch in dataset:
        expected = learnability(scorer.sides(batch["number"]), loss)
        assert dataset.stats.score == pytest.approx(expected, rel=1e-9)
        assert dataset.stats.score > dataset.stats.uniform_score


def test_the_uniform_score_is_that_of_a_uniform_draw():
    scorer = Fixed()
    dataset = jest_dataset(numbered_batches(12, 10), scorer, JointSelector(3), **SIZES)
    uniform = jest_dataset(numbered_batches(12, 10), None, UniformSelector(), **SIZES)
    for _, drawn in zip(dataset, uniform, strict=True):
        expected = learnability(scorer.sides(drawn["number"]), "sigmoid")
        assert dataset.stats.uniform_score == pytest.approx(expected, rel=1e-9)


def test_the_overlap_is_with_what_independent_selection_takes():
    joint = jest_dataset(numbered_batches(12, 10), Fixed(), JointSelector(6), **SIZES)
    independent = jest_dataset(numbered_batches(12, 10), Fixed(), IndependentSelector(), **SIZES)
    for one, other in zip(joint, independent, strict=True):
        shared = set(one["number"].tolist()) & set(other["number"].tolist())
        assert joint.stats.independent_overlap == pytest.approx(len(shared) / 12)
        assert independent.stats.independent_overlap is None
    assert 0 < joint.stats.independent_overlap < 1


def test_softmax_scores_have_no_independent_selection_to_overlap_with():
    dataset = jest_dataset(numbered_batches(12, 10), Fixed("softmax"), JointSelector(3), **SIZES)
    next(iter(dataset))
    assert dataset.stats.independent_overlap is None


def test_scores_of_ones_own_without_a_mean_are_left_out():
    class Own:
        def __init__(self, logits):
            self.logits = logits

        def given(self, chosen):
            return Own(self.logits.index_fill(0, chosen, -torch.inf))

    class Scorer:
        def score(self, super_batch):
            return Own(super_batch["number"].float())

    dataset = jest_dataset(numbered_batches(12, 10), Scorer(), **SIZES)
    next(iter(dataset))
    assert (dataset.stats.score, dataset.stats.uniform_score) == (None, None)


def test_counts_and_skipped_samples_are_those_of_one_super_batch():
    def refuse_multiples_of_seven(batch):
        bad = {r: "seven" for r, n in enumerate(batch["sample_id"].tolist()) if n % 7 == 0}
        if bad:
            raise SkipRowsError(bad)
        return batch

    class Flat:
        def score(self, super_batch):
            return ExampleScores(torch.zeros(60))

    source = [{"sample_id": batch["number"]} for batch in numbered_batches(12, 10)]
    dataset = jest_dataset(
        source, Flat(), materialize=refuse_multiples_of_seven, max_skipped_fraction=0.2, **SIZES
    )
    assert dataset.stats is None
    total = 0
    for _ in dataset:
        stats: Any = dataset.stats
        total += stats.counts.skipped
        assert stats.counts == Counts(60, 60, 12, skipped=len(stats.skipped))
        assert all(
            int(name.removeprefix("sample ").removesuffix(": seven")) % 7 == 0
            for name in stats.skipped
        )
    assert total == dataset.counts.skipped > 0
    json.dumps(stats.to_dict())


def test_times_are_of_the_part_that_took_them():
    class Slow(Fixed):
        def score(self, super_batch):
            time.sleep(0.05)
            return super().score(super_batch)

    def materialize(batch):
        time.sleep(0.03)
        return batch

    class SlowSource(list):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.02)
                yield batch

    source = SlowSource(numbered_batches(12, 10))
    dataset = jest_dataset(source, Slow(), materialize=materialize, prefetch=0, **SIZES)
    for _ in dataset:
        stats = dataset.stats
        assert 50 <= stats.scoring_ms < 500
        assert 30 <= stats.materializing_ms < 500
        assert 6 * 20 <= stats.waiting_ms < 1000
        assert 0 < stats.selecting_ms < 500


def test_nothing_is_scored_without_a_scorer():
    dataset = jest_dataset(numbered_batches(12, 10), None, selector=UniformSelector(), **SIZES)
    next(iter(dataset))
    assert dataset.stats.scoring_ms == 0
    assert dataset.stats.counts.scored == 0


def test_the_references_embeddings_can_travel_with_the_sub_batch():
    scorer = Fixed()
    dataset = jest_dataset(numbered_batches(12, 10), scorer, emit_reference=True, **SIZES)
    for batch in dataset:
        _, expected = scorer.sides(batch["number"])
        assert torch.equal(batch["reference"].image, expected.image)
        assert torch.equal(batch["reference"].text, expected.text)
        assert (batch["reference"].logit_scale, batch["reference"].logit_bias) == (20.0, -3.0)


def test_what_cannot_be_emitted_is_refused():
    def make(scorer=None, **options):
        return jest_dataset(
            numbered_batches(12, 10), scorer or Fixed(), emit_reference=True, **{**SIZES, **options}
        )

    class ByNumber:
        def score(self, super_batch):
            return ExampleScores(super_batch["number"].float())

    with pytest.raises(ValueError, match=r"needs a scorer with a reference, got ByNumber"):
        make(ByNumber())
    with pytest.raises(ValueError, match=r"must be dicts, got Tensor; return a dict from"):
        next(iter(make(materialize=lambda batch: batch["number"])))
    with pytest.raises(ValueError, match=r"emit_reference must be True or False, got .'reference'"):
        Options(emit_reference=("reference",))


def test_a_column_named_reference_is_not_overwritten():
    def rename(batch):
        return {"reference": batch["number"]}

    dataset = jest_dataset(
        numbered_batches(12, 10), Fixed(), materialize=rename, emit_reference=True, **SIZES
    )
    with pytest.raises(ValueError, match="but the sub-batch has one already"):
        next(iter(dataset))
