"""prepare= is called in the reading thread; rows that it cannot use are skipped and named."""

import threading

import pytest
import torch

from jest_loader import ExampleScores, IndependentSelector, SkipRowsError, UniformSelector
from jest_loader.testing import assert_resumes_exactly
from tests.helpers import Counting, jest_dataset, numbered_batches

SIZES = {"super_batch_size": 40, "sub_batch_size": 10}


class ByNumber:
    """Prefers high numbers, so that a row that may not be drawn would be."""

    def score(self, super_batch):
        return ExampleScores(super_batch["number"].double())


def doubled_but(*bad):
    """A ``prepare`` that doubles numbers, and cannot use these."""

    def prepare(batch):
        numbers = batch["number"].tolist()
        reasons = {row: f"no {number}" for row, number in enumerate(numbers) if number in bad}
        if reasons:
            raise SkipRowsError(reasons)
        return {"number": batch["number"], "double": 2 * batch["number"]}

    return prepare


def with_ids(num_batches, batch_size):
    return [
        {**batch, "sample_id": batch["number"] + 1000}
        for batch in numbered_batches(num_batches, batch_size)
    ]


def delivered(dataset):
    return [batch["number"].tolist() for batch in dataset]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_what_it_returns_is_scored_and_delivered(prefetch):
    threads = set()

    def prepare(batch):
        threads.add(threading.current_thread())
        return doubled_but()(batch)

    dataset = jest_dataset(
        numbered_batches(8, 10), ByNumber(), prepare=prepare, prefetch=prefetch, **SIZES
    )
    for batch in dataset:
        assert set(batch) == {"number", "double"}
        assert torch.equal(batch["double"], 2 * batch["number"])
    assert (threading.main_thread() in threads) == (prefetch == 0)


@pytest.mark.parametrize("bad", [(39,), (30, 31, 39), tuple(range(30, 40))])
def test_rows_that_it_skips_are_not_drawn_counted_and_named(bad, caplog):
    """Whole batches of the source too, of which the last is one."""
    dataset = jest_dataset(
        with_ids(4, 10), ByNumber(), prepare=doubled_but(*bad), max_skipped_fraction=0.3, **SIZES
    )
    (batch,) = dataset
    assert sorted(batch["number"].tolist()) == [n for n in range(40) if n not in bad][-10:]
    assert dataset.counts.to_dict() == {
        "loaded": 40, "scored": 40, "trained": 10, "dropped": 0, "skipped": len(bad),
            "seen": 0,
    }  # fmt: skip
    assert dataset.stats.skipped == tuple(f"sample {1000 + n}: no {n}" for n in bad)
    assert (
        f"skipped {len(bad)} of 40 candidates: sample {1000 + bad[0]}: no {bad[0]}" in caplog.text
    )


def test_a_row_without_an_id_is_named_by_its_place_in_the_super_batch():
    dataset = jest_dataset(numbered_batches(8, 10), ByNumber(), prepare=doubled_but(57), **SIZES)
    list(dataset)
    assert dataset.stats.skipped == ("row 17: no 57",)


def test_the_other_rows_are_drawn_as_they_would_be():
    """Skipping a row takes it out of the draw and changes nothing for the others."""

    class Flat:
        def score(self, super_batch):
            return ExampleScores(torch.zeros(len(super_batch["number"])))

    def order(bad):
        (batch,) = jest_dataset(
            numbered_batches(4, 10), Flat(), IndependentSelector(), prepare=doubled_but(*bad),
            super_batch_size=40, sub_batch_size=39,
        )  # fmt: skip
        return batch["number"].tolist()

    first, *others = order(())
    assert order((first,))[:38] == others


def test_uniform_sub_batches_are_shorter_where_nothing_can_replace_a_row():
    dataset = jest_dataset(
        numbered_batches(4, 10), None, UniformSelector(), prepare=doubled_but(3, 17),
        super_batch_size=10, sub_batch_size=10,
    )  # fmt: skip
    assert [len(numbers) for numbers in delivered(dataset)] == [9, 9, 10, 10]
    assert (dataset.counts.trained, dataset.counts.skipped) == (38, 2)


def test_more_than_the_budget_are_refused_by_name():
    dataset = jest_dataset(with_ids(4, 10), ByNumber(), prepare=doubled_but(3, 5), **SIZES)
    with pytest.raises(
        ValueError, match=r"at most 1 of 40 candidates .*, but 2 must be: sample 1003: no 3; sample"
    ):
        list(dataset)


@pytest.mark.parametrize("prefetch", [0, 1])
def test_a_run_with_it_resumes_exactly(prefetch):
    assert_resumes_exactly(
        lambda: jest_dataset(
            Counting(12, 10), ByNumber(), prepare=doubled_but(35, 77), prefetch=prefetch, **SIZES
        )
    )


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda batch: None, "prepare must return the batch, got None; add a return"),
        (lambda batch: {"number": batch["number"][1:]}, "a row for each row .* returned 9 for 10"),
        (doubled_but(*range(40)), "to use some rows, but of 40 it can use none: row 0: no 0; row"),
    ],
    ids=["nothing", "fewer", "none"],
)
def test_what_breaks_its_promise_is_refused(prepare, message):
    with pytest.raises(ValueError, match=message):
        list(jest_dataset(numbered_batches(4, 10), ByNumber(), prepare=prepare, **SIZES))


def test_it_must_be_a_function():
    with pytest.raises(ValueError, match="prepare must be a function or None, got 'decode'"):
        jest_dataset(numbered_batches(4, 10), ByNumber(), prepare="decode", **SIZES)
