"""Rows that cannot be used are skipped, counted, named and replaced, up to a limit."""

import math
import pickle

import numpy as np
import pytest
import torch

from jest_loader import (
    Embeddings,
    ExampleScores,
    FactoredScores,
    HardLearner,
    JointSelector,
    LiveLearner,
    OnlineProxy,
    SkipRowsError,
    TopKSelector,
    UniformSelector,
)
from jest_loader.testing import assert_resumes_exactly
from tests.helpers import Counting, jest_dataset, numbered_batches, random_embeddings


class Scores:
    """Scores that prefer high rows; ``bad`` ones have none."""

    def __init__(self, bad=()):
        self.bad = bad

    def score(self, super_batch):
        values = super_batch["number"].double()
        for number in self.bad:
            values[super_batch["number"] == number] = math.nan
        return ExampleScores(values)


def refuse(*bad):
    """A ``materialize`` that cannot use the rows with these numbers."""

    def materialize(batch):
        numbers = batch["number"].tolist()
        reasons = {row: f"no {number}" for row, number in enumerate(numbers) if number in bad}
        if reasons:
            raise SkipRowsError(reasons)
        return batch

    return materialize


def numbers(dataset):
    return [batch["number"].tolist() for batch in dataset]


def make(scorer, selector=None, num_batches=20, **options):
    return jest_dataset(
        numbered_batches(num_batches, 20),
        scorer,
        selector or JointSelector(2),
        super_batch_size=200,
        sub_batch_size=40,
        **{"max_skipped_fraction": 0.03, **options},
    )


def test_candidates_without_a_score_are_left_out_and_counted(caplog):
    dataset = make(Scores(bad=(199, 197, 3, 399)))
    first, second = numbers(dataset)
    assert not {199, 197, 399} & {*first, *second}
    assert 198 in first
    assert dataset.counts.skipped == 4
    assert "skipped 3 of 200 candidates: row 3: its score is not finite; row 197" in caplog.text


def test_rows_that_cannot_be_materialized_are_replaced_by_the_next(caplog):
    plain = numbers(make(Scores()))
    dataset = make(Scores(), materialize=refuse(199, 198, 395))
    found = numbers(dataset)
    for epoch_batch, (before, after) in enumerate(zip(plain, found, strict=True)):
        bad = {199, 198, 395} & set(before)
        assert bad, epoch_batch
        kept = [row for row in range(40) if before[row] not in bad]
        assert [after[row] for row in kept] == [before[row] for row in kept]
        assert len(set(after)) == 40
        assert min(after) > min(before) - 40, "the next best take the places"
    assert dataset.counts.skipped == 3
    assert "skipped 2 of 200 candidates: row 199: no 199; row 198: no 198" in caplog.text


def test_a_replacement_that_is_bad_is_replaced_too():
    best = numbers(make(Scores(), materialize=refuse(199)))[0]
    spare = next(number for number in best if number not in numbers(make(Scores()))[0])
    dataset = make(Scores(), materialize=refuse(199, spare))
    assert not {199, spare} & set(numbers(dataset)[0])
    assert dataset.counts.skipped == 2


def test_uniform_selection_replaces_too():
    dataset = make(None, UniformSelector(), materialize=refuse(*range(5)))
    assert not set(range(5)) & {number for batch in numbers(dataset) for number in batch}
    assert dataset.counts.skipped > 0


def test_more_bad_samples_than_the_limit_are_an_error_that_names_them():
    with pytest.raises(
        ValueError,
        match=r"at most 6 of 200 candidates may be skipped, but 7 must be: row 0: its score is not "
        r"finite; row 1: .*or raise max_skipped_fraction",
    ):
        numbers(make(Scores(bad=range(7))))
    with pytest.raises(ValueError, match=r"but 21 must be: row \d+: no .*; and 11 more; mend"):
        numbers(make(Scores(), materialize=refuse(*range(179, 200))))


def test_samples_are_named_by_their_ids_where_there_are_any(caplog):
    class Broken:
        def score(self, super_batch):
            return ExampleScores(torch.tensor([0.0, math.nan, 0.0, 0.0]))

    source = [{"sample_id": torch.tensor([7, 8, 9, 10])}]
    next(iter(jest_dataset(source, Broken(), super_batch_size=4, sub_batch_size=2)))
    assert "skipped 1 of 4 candidates: sample 8: its score is not finite" in caplog.text


def test_one_bad_candidate_is_always_allowed():
    source = numbered_batches(2, 4)
    dataset = jest_dataset(source, Scores(bad=(7,)), super_batch_size=8, sub_batch_size=4)
    assert 7 not in next(iter(dataset))["number"].tolist()
    dataset = jest_dataset(source, Scores(bad=(6, 7)), super_batch_size=8, sub_batch_size=4)
    with pytest.raises(ValueError, match="at most 1 of 8 candidates may be skipped, but 2"):
        next(iter(dataset))


def test_when_nothing_is_left_to_replace_with():
    dataset = jest_dataset(
        numbered_batches(1, 8),
        Scores(),
        super_batch_size=8,
        sub_batch_size=8,
        materialize=refuse(3),
    )
    with pytest.raises(ValueError, match=r"but only 0 usable candidates are left: row 3: no 3"):
        next(iter(dataset))


def test_a_candidate_without_a_score_leaves_others_to_be_replaced():
    class Scorer:
        def score(self, super_batch):
            side = random_embeddings(200, 8, seed=0)
            side.image[5] = math.nan
            return FactoredScores(side)

    dataset = make(Scorer(), materialize=refuse(*range(0, 200, 40)))
    found = next(iter(dataset))["number"].tolist()
    assert len(set(found)) == 40
    assert not {5, *range(0, 200, 40)} & set(found)


def test_replacements_are_what_the_selector_takes_next():
    """The highest scores for TopKSelector, and anything for UniformSelector."""
    found = numbers(make(Scores(), TopKSelector(), materialize=refuse(199, 180)))[0]
    assert sorted(found) == [158, 159, *range(160, 180), *range(181, 199)]
    spares = set()
    for seed in range(20):
        plain = set(numbers(make(Scores(), UniformSelector(), seed=seed))[0])
        bad = min(plain)
        after = numbers(make(Scores(), UniformSelector(), seed=seed, materialize=refuse(bad)))[0]
        spares |= set(after) - plain
    assert max(spares) - min(spares) > 100, "whatever their scores"


def test_a_selectors_own_tensor_is_left_alone():
    class Fixed:
        index = torch.arange(40)

        def select(self, scores, size, *, key):
            if torch.isfinite(scores.logits).all():
                return self.index
            return torch.tensor([60])

    dataset = make(Scores(), Fixed(), materialize=refuse(7))
    assert next(iter(dataset))["number"].tolist() == [*range(7), 60, *range(8, 40)]
    assert torch.equal(Fixed.index, torch.arange(40))


def test_the_error_says_what_is_bad_and_survives_a_pickle():
    error = pickle.loads(pickle.dumps(SkipRowsError({3: "torn"})))
    assert error.reasons == {3: "torn"}
    with pytest.raises(ValueError, match="must name the rows to skip, got none"):
        SkipRowsError({})


@pytest.mark.parametrize("row", [-1, True, 1.5, "a"])
def test_rows_to_skip_must_be_numbers(row):
    with pytest.raises(ValueError, match="a row of SkipRowsError must be a whole number of at le"):
        SkipRowsError({row: "torn"})


def test_rows_to_skip_may_be_of_numpy():
    (row,) = SkipRowsError({np.flatnonzero([0, 1])[0]: "torn"}).reasons
    assert (type(row), row) == (int, 1)


def test_rows_to_skip_must_be_the_batchs():
    def materialize(batch):
        raise SkipRowsError({40: "torn"})

    with pytest.raises(ValueError, match=r"must name rows of the batch .*, from 0 to 39, got 40"):
        numbers(make(Scores(), materialize=materialize))


def test_a_scorer_that_raises_for_rows_is_told_how_to_skip_them():
    class Raises:
        def score(self, super_batch):
            raise SkipRowsError({3: "torn"})

    with pytest.raises(
        ValueError, match=r"skipped=reasons\), but it raised .* for 1 of .* torn; m"
    ):
        numbers(make(Raises()))


def test_a_sub_batch_with_no_row_left_is_refused():
    def materialize(batch):
        raise SkipRowsError(dict.fromkeys(range(len(batch["number"])), "torn"))

    data = jest_dataset(
        numbered_batches(2, 4), None, UniformSelector(), super_batch_size=4, sub_batch_size=4,
        materialize=materialize, max_skipped_fraction=1.0,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"must be able to use some of the chosen rows, .* torn"):
        numbers(data)


def test_a_forgotten_return_is_refused():
    with pytest.raises(ValueError, match="materialize must return the sub-batch, got None"):
        numbers(make(Scores(), materialize=lambda batch: None))


def test_none_may_be_skipped_where_none_is_allowed():
    source = numbered_batches(2, 4)
    options = {"super_batch_size": 8, "sub_batch_size": 4, "max_skipped_fraction": 0}
    with pytest.raises(ValueError, match="at most 0 of 8 candidates may be skipped, but 1"):
        next(iter(jest_dataset(source, Scores(bad=(7,)), **options)))


def test_a_proxy_trains_on_what_was_emitted():
    trained_on = []

    class Learns(Scores):
        def update(self, sub_batch):
            trained_on.append(sub_batch["number"].tolist())

    assert numbers(make(Learns(), materialize=refuse(199))) == trained_on


def test_skipping_never_breaks_resume():
    assert_resumes_exactly(
        lambda: jest_dataset(
            Counting(10, 20),
            Scores(bad=(5, 77, 120)),
            super_batch_size=40,
            sub_batch_size=8,
            materialize=refuse(39, 38, 79),
            max_skipped_fraction=0.1,
        )
    )


class Towers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.tensor(10.0).log())
        self.calls = []

    def embed(self, batch):
        found = batch["number"].tolist()
        self.calls.append(found)
        bad = {row: "torn" for row, number in enumerate(found) if number % 10 == 3}
        if bad:
            raise SkipRowsError(bad)
        side = random_embeddings(200, 8, seed=0, dtype=torch.float32)
        return Embeddings(side.image[found], side.text[found], self.log_scale.exp(), -5.0)


@pytest.mark.parametrize("micro_batch_size", [None, 7, 1])
def test_rows_that_a_model_cannot_embed_get_no_score(micro_batch_size):
    learner = LiveLearner(Towers(), micro_batch_size=micro_batch_size)
    found = learner.embed({"number": torch.arange(20)})
    assert torch.isnan(found.image).any(dim=1).nonzero().flatten().tolist() == [3, 13]
    expected = random_embeddings(200, 8, seed=0, dtype=torch.float32)
    good = [row for row in range(20) if row % 10 != 3]
    assert torch.equal(found.text[good], expected.text[good])
    assert found.skipped == {3: "torn", 13: "torn"}
    scores = FactoredScores(found)
    assert torch.isnan(scores.logits).nonzero().flatten().tolist() == [3, 13]


def test_rows_that_a_model_cannot_embed_are_skipped_and_others_used():
    learner = HardLearner(LiveLearner(Towers()))
    dataset = make(learner, num_batches=10, max_skipped_fraction=0.1)
    assert not [number for number in numbers(dataset)[0] if number % 10 == 3]
    assert dataset.counts.skipped == 20
    assert dataset.stats.skipped[:2] == ("row 3: torn", "row 13: torn")


def test_a_model_that_can_embed_nothing_says_why():
    learner = LiveLearner(Towers())
    with pytest.raises(SkipRowsError, match="2 rows to skip, the first is row 0: torn"):
        learner.embed({"number": torch.tensor([3, 13])})


def test_a_proxy_trains_without_the_rows_that_it_cannot_embed():
    model = Towers()
    proxy = OnlineProxy(model, torch.optim.SGD(model.parameters(), lr=0.1))
    proxy.update({"number": torch.arange(20)})
    assert model.calls[-1] == [number for number in range(20) if number % 10 != 3]
