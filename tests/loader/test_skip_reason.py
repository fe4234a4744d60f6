"""A source that knows which of its rows are bad says so in a column."""

import pytest
import torch

from jest_loader import ExampleScores, JestDataset, Options, SkipRowsError, UniformSelector
from jest_loader.reference_cache import CachedReference, build
from jest_loader.skipped import SKIP_REASON
from tests.helpers import random_embeddings


class ByValue:
    def score(self, super_batch):
        assert SKIP_REASON not in super_batch
        return ExampleScores(super_batch["x"])


def batches(bad, num_batches=4, rows=16):
    numbers = range(num_batches * rows)
    reasons = [bad.get(n, "") for n in numbers]
    return [
        {
            "x": torch.arange(start, start + rows).float(),
            SKIP_REASON: reasons[start : start + rows],
            "sample_id": torch.arange(start, start + rows),
        }
        for start in numbers[::rows]
    ]


def dataset(source, **options):
    return JestDataset(
        source, ByValue(), super_batch_size=32, sub_batch_size=8,
        options=Options(max_skipped_fraction=0.1), **options,
    )  # fmt: skip


@pytest.mark.parametrize("prepare", [None, lambda batch: batch], ids=["alone", "prepared"])
def test_rows_with_a_reason_are_skipped_counted_and_named(prepare):
    tested = dataset(batches({31: "it is torn", 63: "it is gone"}), prepare=prepare)
    found = list(tested)
    assert [len(batch["x"]) for batch in found] == [8, 8]
    assert all(SKIP_REASON not in batch for batch in found)
    assert not {31, 63} & {int(x) for batch in found for x in batch["x"]}
    assert tested.counts.skipped == 2
    assert tested.stats.skipped == ("sample 63: it is gone",)


def test_prepare_is_called_without_them_and_may_skip_others():
    called = []

    def prepare(batch):
        called.append((len(batch["x"]), SKIP_REASON in batch))
        bad = {row: "odd" for row, x in enumerate(batch["x"].tolist()) if x == 30}
        if bad:
            raise SkipRowsError(bad)
        return batch

    tested = dataset(batches({31: "torn"}), prepare=prepare)
    first = next(iter(tested))
    assert not {30, 31} & set(first["x"].tolist())
    assert called[:3] == [(16, False), (15, False), (14, False)]
    assert tested.stats.skipped == ("sample 31: torn", "sample 30: odd")
    tested.close()


def test_too_many_are_an_error_that_lists_them():
    bad = {n: f"torn {n}" for n in range(9)}
    with pytest.raises(ValueError, match=r"sample 0: torn 0; sample 1: torn 1"):
        next(iter(dataset(batches(bad))))


def test_a_column_of_that_name_that_is_no_text_is_refused():
    source = [{"x": torch.arange(16.0), SKIP_REASON: torch.zeros(16)} for _ in range(2)]
    with pytest.raises(ValueError, match=r"column 'skip_reason' must be a list of text"):
        next(iter(dataset(source)))


def test_a_reference_cache_records_them_as_missing(tmp_path, caplog):
    class Reference:
        def embed(self, batch):
            assert SKIP_REASON not in batch
            return random_embeddings(len(batch["x"]), 4, seed=int(batch["x"][0]))

    source = batches({5: "it is torn"})
    manifest = build(tmp_path / "cache", source, Reference())
    assert manifest.num_rows == 64
    assert "sample 5: it is torn" in caplog.text
    cached = CachedReference.open(tmp_path / "cache", missing="skip")
    found = cached.embed({"sample_id": torch.arange(16)})
    assert list(found.skipped) == [5]


def test_uniform_selection_has_fewer_rows():
    tested = JestDataset(
        batches({3: "torn"}), None, UniformSelector(), super_batch_size=16, sub_batch_size=16,
        options=Options(max_skipped_fraction=0.1),
    )  # fmt: skip
    assert [len(batch["x"]) for batch in tested] == [15, 16, 16, 16]
